"""After configure() nothing raises into the program, whatever a verb is given; before it, nothing either."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.verbs.run import Run
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")


class Hostile:
    """Raises whatever it is asked; it cannot be hashed, compared, printed, counted or measured."""

    __hash__ = None  # type: ignore[assignment]

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("hostile")

    __str__ = __repr__ = __format__ = __float__ = __int__ = __index__ = __len__ = __iter__ = __bool__ = _refuse
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __getitem__ = __call__ = _refuse
    __fspath__ = __contains__ = __next__ = __enter__ = _refuse


class Evasive:
    """Raises when an attribute is looked for."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("evasive")


class BadMap(Mapping[str, Any]):
    """A map that cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("map")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("map")

    def __len__(self) -> int:
        return 1


endless: dict[str, Any] = {}
endless["again"] = endless
VALUES: dict[str, Any] = {
    "none": None,
    "hostile": Hostile(),
    "evasive": Evasive(),
    "bad map": BadMap(),
    "endless map": endless,
    "hostile map": {"x": Hostile(), "y": Evasive()},
    "odd keys": {1: 2, None: 3, "": 4, ("a", "b"): 5},
    "nan": math.nan,
    "infinite": math.inf,
    "negative": -5,
    "huge": 10**400,
    "text": "x" * 100_000,
    "surrogate": "\ud800",
    "bytes": b"\xff\x00",
    "nul": "a\0b",
    "list": [1, "a", None, [Hostile()]],
    "complex": 1j,
    "true": True,
    "type": Hostile,
    "exception": ValueError("x"),
    "object": object(),
}

FAULTS = "crucible.sdk.faults"
Verb = Callable[[Run, Any], object]


def looped(run: Run, value: Any, **options: Any) -> None:
    """Go through a loop."""
    for _, step in run.steps(range(3), **options):
        step.log(loss=value)


def logged(run: Run, value: Any) -> None:
    """Log everything, twice."""
    for _, step in run.steps(range(2)):
        for _ in range(2):
            step.log(value, value, value, value, value, value)


def epochs(run: Run, **options: Any) -> None:
    """Go through the first epochs."""
    for number, _ in enumerate(run.epochs(**options)):
        if number == 3:
            break


def block(managed: Any) -> None:
    """Go through a block and say something inside."""
    with managed:
        pass


def told(managed: Any, value: Any) -> None:
    """Say everything a block can be told."""
    with managed as inside:
        inside.set(field=value)
        inside.skip(value)
        inside.fail(value)


def evaluated(run: Run, value: Any) -> None:
    """Log an evaluation in every way."""
    with run.evaluate(value, field=value) as evaluation:
        evaluation.log(value)
        evaluation.log(loss=value, **{"x": value})


def epoch_logged(run: Run, value: Any) -> None:
    """Log an epoch in every way."""
    with run.epoch(value) as epoch:
        epoch.log(value, value, value, value)
        epoch.log(metrics=value)


def trained(value: Any, **options: Any) -> None:
    """Make a run of its own."""
    with cx.train(value, **options) as run:
        run.step(loss=1.0)


def decorated(value: Any) -> None:
    """Call a decorated function."""
    cx.stage("s {value}", module=value)(lambda value: None)(value)


VERBS: dict[str, Verb] = {
    "execute(name)": lambda run, value: cx.execute(value),
    "execute(own)": lambda run, value: cx.execute("my.event", value, value),
    "execute(own fields)": lambda run, value: cx.execute("my.event", {"x": value}, {"y": value}),
    "execute(start)": lambda run, value: cx.execute("crucible_kitchen.stage.run.start", value, {"stage": value}),
    "execute(stop)": lambda run, value: cx.execute(
        "crucible_kitchen.stage.run.stop", {"duration": value, "duration_ms": value}, {"stage": value, "success": value}
    ),
    "execute(pair)": lambda run, value: [
        cx.execute("crucible_train.epoch.start", {"system_time": value}, {"epoch": value}),
        cx.execute("crucible_train.epoch.stop", {"duration": value, "loss": value, "accuracy": value}, {"epoch": 1}),
    ],
    "execute(exception)": lambda run, value: cx.execute(
        "crucible_framework.pipeline.exception", value, {"error": value, "error_type": value, "pipeline_id": value}
    ),
    "emit_step": lambda run, value: cx.emit_step(
        {"loss": value, "lr": value, "duration": value, "metrics": value, "tokens": value}, {"step": value}
    ),
    "emit_epoch": lambda run, value: cx.emit_epoch({"epoch_loss": value}, {"epoch": value}),
    "emit_checkpoint": lambda run, value: cx.emit_checkpoint({"size_bytes": value, "duration": value}, {"path": value}),
    "emit_evaluation": lambda run, value: cx.emit_evaluation({"metrics": value}, {"split": value, "step": value}),
    "emit_dataset_load": lambda run, value: cx.emit_dataset_load({"size": value, "duration": value}, {"name": value}),
    "emit_dataset_batch": lambda run, value: cx.emit_dataset_batch(
        {"batch_size": value, "wait_time": value}, {"batch_idx": value, "dataset": value}
    ),
    "dataset.load": lambda run, value: cx.dataset.load(
        value, size=value, duration_s=value, size_bytes=value, more=value
    ),
    "dataset.batch": lambda run, value: cx.dataset.batch(value, dataset=value, wait_s=value),
    "dataset.batch(index)": lambda run, value: cx.dataset.batch(value, dataset=value, wait_s=value, index=value),
    "workflow": lambda run, value: block(cx.workflow(value, run_id=value, tags=value, more=value)),
    "workflow(told)": lambda run, value: told(cx.workflow("w", tags={"tag": value}), value),
    "stage": lambda run, value: block(cx.stage(value, module=value, index=value, more=value)),
    "stage(told)": lambda run, value: told(cx.stage("s"), value),
    "stage(decorator)": lambda run, value: decorated(value),
    "span": lambda run, value: block(cx.span(value, value)),
    "span(call)": lambda run, value: cx.span(value, value, lambda: None),
    "span(told)": lambda run, value: told(cx.span("s", {"x": value}), value),
    "start_span": lambda run, value: cx.end_span(cx.start_span(value, value), value),
    "end_span": lambda run, value: cx.end_span(cx.start_span("s"), {"result": value}),
    "end_span(ref)": lambda run, value: cx.end_span(value, value, error=value),
    "end_span(error)": lambda run, value: cx.end_span(cx.start_span("s"), error=value),
    "train(model)": lambda run, value: trained(value),
    "train(plans)": lambda run, value: trained("m", total_steps=value, total_epochs=value, start_step=value),
    "train(more)": lambda run, value: trained("m", config=value, loss_scaling=value, more=value),
    "run.step(loss)": lambda run, value: run.step(loss=value),
    "run.step(all)": lambda run, value: run.step(
        loss=value, learning_rate=value, gradient_norm=value, tokens=value, samples=value, step=value, metrics=value
    ),
    "run.step(metrics)": lambda run, value: run.step(metrics={"x": value}),
    "run.steps(accumulate)": lambda run, value: looped(run, 1.0, accumulate=value),
    "run.steps(start)": lambda run, value: looped(run, 1.0, start=value),
    "run.steps(samples)": lambda run, value: looped(run, 1.0, samples=value),
    "run.steps(batch)": lambda run, value: list(run.steps([value, value])),
    "step.log": logged,
    "step.skip": lambda run, value: [step.skip(value) for _, step in run.steps(range(1))],
    "run.epochs(total)": lambda run, value: epochs(run, total=value),
    "run.epochs(start)": lambda run, value: epochs(run, total=2, start=value),
    "epoch.log": epoch_logged,
    "run.skip": lambda run, value: run.skip(value, step=value),
    "run.evaluation": lambda run, value: run.evaluation(value, split=value, step=value),
    "run.evaluation(values)": lambda run, value: run.evaluation({"x": value, "y": {"z": value}}),
    "run.evaluate": evaluated,
    "run.checkpoint": lambda run, value: block(run.checkpoint(value, path=value, size_bytes=value, more=value)),
    "run.checkpoint_saved": lambda run, value: run.checkpoint_saved(
        value, path=value, size_bytes=value, duration_s=value, step=value
    ),
    "run.finish": lambda run, value: run.finish(error=value, final_loss=value, more=value),
    "handlers": lambda run, value: [cx.current_run(), cx.handlers(), cx.detach("nobody")],
}


def act(verb: str, value: Any) -> None:
    """Give a value to a verb, in the middle of a run, and make sure that the run works afterwards."""
    with cx.workflow("around"), cx.train("model") as run:
        run.step(loss=1.0)
        VERBS[verb](run, value)
        run.step(loss=1.0)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_raises_whatever_it_is_given(capture: Capture, verb: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every hostile value for every argument: steps are counted, what was opened is closed, all can be sent."""
    caplog.set_level(logging.ERROR)  # text of refusals is not of interest here, and hostile values are in it
    capture.configure()
    listen()
    listen("crucible_kitchen.training.step", "crucible_kitchen.stage.run.stop", handler_id="seed")
    for value in VALUES.values():
        act(verb, value)
    steps = capture.value("crucible.training.steps", crucible__model__name="model")
    assert steps is not None
    assert steps >= 2 * len(VALUES)
    assert len(VALUES) == len(capture.named("run_workflow around"))
    assert not [span for span in capture.spans if "crucible.result" not in span.attributes]
    assert capture.telemetry is not None
    if not verb.startswith("execute"):  # which may well start what it does not end
        assert [] == capture.telemetry.status()["open"]
    assert {"seen": 0, "seed": 0} == {
        handler_id: handler["failures"] for handler_id, handler in capture.telemetry.status()["handlers"].items()
    }
    assert {} == {point.attributes["crucible.sdk.component"]: point.value for point in capture.points(FAULTS)}
    for signal in ("spans", "logs", "metrics"):
        assert capture.encoded(signal)
    assert capture.telemetry.shutdown(30)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_raises_when_nothing_is_configured(verb: str) -> None:
    """With handlers only."""
    listen()
    for value in VALUES.values():
        act(verb, value)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_raises_when_switched_off(capture: Capture, verb: str) -> None:
    """Nothing is looked at that need not be."""
    capture.configure(enabled=False)
    for value in VALUES.values():
        act(verb, value)


def test_an_argument_that_cannot_be_used_is_said_once(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """Which, what it was, and what happens instead; each time counted."""
    capture.configure()
    with cx.train("m") as run:
        for _ in range(3):
            numbers = [step.number for _, step in run.steps(range(2), accumulate=0)]
            run.evaluation([1, 2])  # type: ignore[arg-type]
    assert [5, 6] == numbers
    assert [
        "run.steps(accumulate)=0 cannot be used; a whole number of at least 1 is needed",
        "run.evaluation(metrics)=[1, 2] cannot be used; a mapping is needed",
    ] == [record.message for record in caplog.records]
    assert 6 == capture.value("crucible.sdk.refused_attributes", crucible__sdk__refusal__reason="dropped")


@pytest.mark.parametrize(("text", "shown"), [("", "''"), ("2", "'2'"), ("\x1b[31m\n", r"'\x1b[31m\n'")])
def test_a_text_that_cannot_be_used_is_shown_as_one(
    text: str, shown: str, capture: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    """Else ``"2"`` looks like the number it is not, and an empty one like nothing."""
    capture.configure()
    cx.dataset.load("d", duration_s=text)  # type: ignore[arg-type]
    (said,) = caplog.messages
    assert said.startswith(f"dataset.load(duration_s)={shown} cannot be used; ")


def test_a_bad_number_of_epochs_makes_no_endless_loop(caplog: pytest.LogCaptureFixture) -> None:
    """The run's plan counts then, and without one there are none."""
    with cx.train("m", total_epochs=2) as run:
        assert [0, 1] == list(run.epochs("three"))  # type: ignore[arg-type]
    with cx.train("m") as run:
        assert [] == list(run.epochs("three"))  # type: ignore[arg-type]
        assert [0, 1] == list(run.epochs(2.0))  # type: ignore[arg-type]
    assert "run.epochs(total)='three' cannot be used; a whole number is needed" == caplog.records[0].message


def test_an_error_of_ours_is_counted_and_said_once(
    capture: Capture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where our own code fails the program goes on."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("ours")

    capture.configure()
    monkeypatch.setattr("crucible_otel.events.raw.inward", fail)
    for _ in range(3):
        cx.emit_step({"loss": 1.0})
    assert ["internal error in execute: RuntimeError; counted from now on"] == [
        record.message for record in caplog.records
    ]
    assert 3 == capture.value("crucible.sdk.faults", crucible__sdk__component="execute")
