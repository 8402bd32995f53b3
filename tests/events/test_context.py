"""The current context, read where OpenTelemetry keeps it."""

from __future__ import annotations

import pytest
from opentelemetry import context as otel_context
from opentelemetry.context import Context

from crucible_otel.events import context


def test_it_is_what_opentelemetry_says() -> None:
    """Before and after something is made current."""
    assert context.current_context() is otel_context.get_current()
    token = otel_context.attach(Context({"key": 1}))
    try:
        assert context.current_context() is otel_context.get_current()
        assert {"key": 1} == context.current_context()
    finally:
        otel_context.detach(token)


def test_what_is_made_current_is_current_for_opentelemetry() -> None:
    """And what was current before can be made so again."""
    before = otel_context.get_current()
    context.make_current(Context({"key": 2}))
    try:
        assert {"key": 2} == otel_context.get_current()
    finally:
        context.make_current(before)
    assert before is otel_context.get_current()


def test_where_it_is_kept_elsewhere_opentelemetry_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another runtime context can be chosen by an environment variable."""
    monkeypatch.setattr(otel_context, "_RUNTIME_CONTEXT", object())
    assert context._ways() == (otel_context.get_current, otel_context.attach)
