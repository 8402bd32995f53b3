"""When a record becomes an event: the log's rate, listening handlers, the ends of an epoch."""

from __future__ import annotations

from crucible_otel.semconv.dataset import BATCH_EVENT
from crucible_otel.semconv.training import STEP_EVENT

from .engines import engine


def test_the_log_event_is_limited_to_one_a_second_and_loop() -> None:
    """Ten seconds of a fast loop give about ten events, the first one at once."""
    one, clock, reports = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {"model": "m"})
    for _ in range(1_000):
        clock.advance(0.01)
        handle.record(loss=1.0)
    assert len(reports) == 10
    assert reports[0]["metadata"] == {"step": 1, "model": "m"}
    assert all(each["log"] and not each["tell"] for each in reports)


def test_the_interval_is_a_setting() -> None:
    """With no interval every step is a log event."""
    one, clock, reports = engine(interval_s=0.0)
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    for _ in range(5):
        clock.advance(0.01)
        handle.record(loss=1.0)
    assert len(reports) == 5


def test_the_first_and_the_last_record_are_logged_once() -> None:
    """``log_next`` and ``log_last`` ignore the limit and repeat nothing, whether folded or not."""
    one, clock, reports = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    for folded in (False, True):
        reports.clear()
        handle.log_next()
        for _ in range(5):
            clock.advance(0.01)
            handle.record(loss=1.0)
        if folded:
            one.snapshot()
        handle.log_last()
        handle.log_last()
        assert [each["metadata"]["step"] for each in reports] == ([6, 10] if folded else [1, 5])


def test_a_listener_gets_every_record_and_nobody_pays_afterwards() -> None:
    """A handler that subscribes is told each record; when it leaves, records are quiet again."""
    listening = {"now": False}
    one, clock, reports = engine(listened=lambda name: listening["now"])
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    clock.advance(0.1)
    handle.record(loss=1.0)
    reports.clear()
    listening["now"] = True
    one.rearm()
    for _ in range(3):
        clock.advance(0.1)
        handle.record(loss=1.0, metrics={"perplexity": 3.0})
    assert [each["measurements"]["duration"] for each in reports] == [100_000_000] * 3
    assert [each["metadata"]["step"] for each in reports] == [2, 3, 4]
    assert all(each["tell"] and not each["log"] for each in reports)
    assert reports[0]["measurements"]["metrics"] == {"perplexity": 3.0}
    listening["now"] = False
    one.rearm()
    reports.clear()
    handle.record(loss=1.0)
    handle.record(loss=1.0)
    assert reports == []


def test_batches_are_no_log_events() -> None:
    """Their spec says so."""
    one, clock, reports = engine()
    handle = one.bound(BATCH_EVENT, ("d",))
    for _ in range(3):
        clock.advance(5)
        handle.record(batch_size=1)
    assert reports == []


def test_a_gradient_norm_under_a_loss_scaler_is_a_warning() -> None:
    """What is expected now and then is told at a lower severity."""
    one, _, reports = engine()
    one.handle(STEP_EVENT, ("m",), None, {}, 0, frozenset({"gradient_norm"})).record(
        gradient_norm=float("inf"), loss=1.0
    )
    one.snapshot()
    assert [each["severity"] for each in reports if each["name"] == "crucible.training.nonfinite"] == ["WARN"]
