"""Scope hooks: who is told of a scope's beginning may add to its end, and harms nobody."""

from __future__ import annotations

import logging

import pytest

from crucible_otel.events.event import Event
from crucible_otel.events.hooks import Closing
from crucible_otel.events.runtime import Runtime
from crucible_otel.events.scope import Scope, current
from crucible_otel.semconv.training import TRAINING
from crucible_otel.semconv.workflow import STAGE_OPERATION
from crucible_otel.testing import FakeClock
from tests.captured import Seen
from tests.events.test_runtime import watched


@pytest.fixture
def made() -> Runtime:
    """A runtime of its own."""
    return Runtime(clock=FakeClock())


def test_a_hook_adds_to_the_end_of_the_scopes_it_wants(made: Runtime) -> None:
    """Handlers see what it adds; a hook that returns nothing is not called again."""
    begun: list[str] = []

    def hook(scope: Scope) -> Closing | None:
        begun.append(scope.operation.name)
        return (lambda event: event.measurements.update(energy_j=7.0)) if scope.operation is STAGE_OPERATION else None

    made.hooks = (hook,)
    seen: Seen = watched(made)
    for operation in (STAGE_OPERATION, TRAINING):
        made.close(made.open(operation, {}))

    assert ["crucible.stage", "crucible.training"] == begun
    ends = {name: values.get("energy_j") for name, values, _ in seen if name.endswith(".stop")}
    assert {"crucible.stage.stop": 7.0, "crucible.training.stop": None} == ends


def test_a_hook_is_called_once_for_an_end_by_exception(made: Runtime) -> None:
    """With the event of that end."""
    ends: list[str] = []

    def hook(scope: Scope) -> Closing:
        return lambda event: ends.append(event.name)

    made.hooks = (hook,)
    scope = made.open(STAGE_OPERATION, {})
    made.close(scope, error=ValueError("no"))
    made.close(scope)

    assert ["crucible.stage.exception"] == ends


def test_a_hook_that_fails_is_a_fault(made: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """At the beginning and at the end; the other hooks, the program and the event are not touched."""
    ends: list[str] = []

    def broken(scope: Scope) -> Closing:
        raise RuntimeError("at the beginning")

    def breaking(scope: Scope) -> Closing:
        def closing(event: Event) -> None:
            raise RuntimeError("at the end")

        return closing

    def whole(scope: Scope) -> Closing:
        return lambda event: ends.append(event.name)

    made.hooks = (broken, breaking, whole)
    seen = watched(made)
    made.close(made.open(STAGE_OPERATION, {"stage": "s"}))

    assert ["crucible.stage.stop"] == ends
    assert ["crucible.stage.start", "crucible.stage.stop"] == seen.names
    assert [("error in hook: RuntimeError", logging.WARNING)] == [
        (each.getMessage(), each.levelno) for each in caplog.records
    ]


def test_a_hook_sees_the_scope_inside_its_parent(made: Runtime) -> None:
    """Its fields are there, and it is current."""
    stages: list[tuple[object, object]] = []

    def hook(scope: Scope) -> None:
        assert current() is scope
        stages.append((scope.fields.get("stage"), scope.parent.fields.get("stage") if scope.parent else None))

    made.hooks = (hook,)
    outer = made.open(STAGE_OPERATION, {"stage": "outer"})
    inner = made.open(STAGE_OPERATION, {"stage": "inner"})
    made.close(inner)
    made.close(outer)

    assert [("outer", None), ("inner", "outer")] == stages


def test_without_hooks_a_scope_keeps_nothing(made: Runtime) -> None:
    """It has no list to go through at its end."""
    scope = made.open(STAGE_OPERATION, {})
    made.close(scope)

    assert () == scope.closings == made.hooks
