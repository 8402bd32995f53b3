"""Scopes: which is current, and how it ends."""

from __future__ import annotations

import contextvars
import threading

import pytest
from opentelemetry import context as otel_context

from crucible_otel.events.runtime import Runtime
from crucible_otel.events.scope import Scope, chain, current, innermost, leave_ended
from crucible_otel.semconv.training import TRAINING
from crucible_otel.semconv.workflow import STAGE_OPERATION, WORKFLOW_OPERATION

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


def opened(runtime: Runtime, name: str = "s") -> Scope:
    """Open a stage."""
    return runtime.open(STAGE_OPERATION, {"stage": name})


def test_scopes_nest_and_come_back() -> None:
    """The innermost is current; ending it brings back the one around it."""
    runtime = Runtime()
    outer, inner = opened(runtime), opened(runtime)
    assert (inner, outer) == (current(), inner.parent)
    runtime.close(inner)
    assert outer is current()
    runtime.close(outer)
    assert current() is None


def test_what_is_known_of_a_scope_is_inherited() -> None:
    """The fields that the conventions call context, from all scopes around, the innermost first."""
    runtime = Runtime()
    runtime.open(WORKFLOW_OPERATION, {"workflow": "w", "run_id": "r", "tags": {"x": 1}})
    inner = opened(runtime, "s")
    assert {"workflow": "w", "run_id": "r", "stage": "s"} == dict(inner.inherited)


def test_a_scope_ends_once() -> None:
    """The second end changes nothing, whoever makes it."""
    runtime = Runtime()
    scope = opened(runtime)
    outcomes = [runtime.close(scope), runtime.close(scope, error=ValueError())]
    assert [True, False] == outcomes


def test_of_many_threads_one_ends_a_scope() -> None:
    """The right to end it is taken once."""
    runtime, won = Runtime(), []
    scope = runtime.open(STAGE_OPERATION, {"stage": "s"}, enter=False)
    barrier = threading.Barrier(8)

    def close() -> None:
        barrier.wait()
        if runtime.close(scope):
            won.append(1)

    threads = [threading.Thread(target=close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [1] == won


def test_an_end_in_another_context_leaves_that_context_alone() -> None:
    """Ended in a thread or a copied context, it is left where it was entered, when that asks next."""
    runtime = Runtime()
    scope = opened(runtime)
    elsewhere = contextvars.Context()
    elsewhere.run(runtime.close, scope)
    assert scope is current()
    assert not runtime.close(scope)
    assert current() is None


def test_what_ended_elsewhere_can_be_left_at_once() -> None:
    """All ended scopes around the calling context, innermost first."""
    runtime = Runtime()
    before = otel_context.get_current()
    opened(runtime), opened(runtime)
    elsewhere = threading.Thread(target=runtime.close_all)
    elsewhere.start()
    elsewhere.join()
    leave_ended()
    assert before == otel_context.get_current()


def test_a_scope_ended_out_of_order_takes_what_is_inside_with_it() -> None:
    """The outer end restores what was current before it; the inner one, ended later, changes nothing."""
    runtime = Runtime()
    outer, inner = opened(runtime), opened(runtime)
    runtime.close(outer)
    assert current() is None
    runtime.close(inner)
    assert current() is None


def test_a_scope_that_was_not_entered_is_not_current() -> None:
    """Started by hand, it leaves the context alone."""
    runtime = Runtime()
    scope = runtime.open(STAGE_OPERATION, {"stage": "s"}, enter=False)
    assert current() is None
    runtime.close(scope)
    assert current() is None


def test_the_innermost_open_scope_of_a_kind_is_found() -> None:
    """Ended ones and those of other kinds are passed over."""
    runtime = Runtime()
    outer = runtime.open(TRAINING, {"model": "a"})
    inner = runtime.open(TRAINING, {"model": "b"})
    stage = opened(runtime)
    assert inner is innermost(TRAINING.name)
    elsewhere = contextvars.Context()
    elsewhere.run(runtime.close, inner)
    assert outer is innermost(TRAINING.name)
    assert innermost("nothing") is None
    assert [True, True, True, False] == [
        outer in chain(stage), stage in chain(stage), inner in chain(stage), stage in chain(outer)
    ]  # fmt: skip


def test_a_child_process_has_nothing_open() -> None:
    """What its parent opened is its parent's: here nothing is left to close."""
    runtime = Runtime()
    scope = opened(runtime)
    runtime.forget_open_scopes()
    assert (True, {}, False) == (scope.ended, runtime.open_scopes, runtime.close(scope))
