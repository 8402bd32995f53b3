"""Values that users hand in: not finite, negative, tensors; and what their log events say."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest

import crucible_otel as cx
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh", "no_complaints")

NAN, INF = math.nan, math.inf


def name(short: str) -> str:
    """Return the full name of a training metric or event."""
    return f"crucible.training.{short}"


# -- not finite --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_told_once_a_transition(capture: Capture) -> None:
    """Each value is counted, each transition is one ERROR event, the gauge stops and comes back."""
    clock = capture.stopped()
    seen = listen("crucible.training.nonfinite")
    gauge = []
    with cx.train("m", total_steps=9) as run, run.epoch(2):
        for loss in (1.0, NAN, NAN, INF, 2.0, -INF, 3.0):
            clock.advance(0.1)
            run.step(loss=loss)
            gauge.append(capture.value(name("loss")))
    assert [1.0, None, None, None, 2.0, None, 3.0] == gauge
    assert (7, 4) == (capture.value(name("steps")), capture.value(name("nonfinite"), crucible__training__signal="loss"))
    events = capture.events(name("nonfinite"))
    assert [("ERROR", "loss", "NaN", 2, 2, 9), ("ERROR", "loss", "-Infinity", 6, 2, 9)] == [
        (
            record.severity_text,
            record.attributes[name("signal")],
            record.attributes[name("nonfinite.value")],
            record.attributes[name("step")],
            record.attributes[name("epoch")],
            record.attributes[name("max_steps")],
        )
        for record in events
    ]
    assert [2, 6] == [metadata["step"] for _, _, metadata in seen]


def test_transitions_inside_one_fold_are_all_told(capture: Capture) -> None:
    """Also when nobody collects in between, and more values than one fold takes."""
    capture.stopped()
    with cx.train("m") as run:
        for number in range(1_000):
            run.step(loss=NAN if 300 <= number < 600 else 1.0)
    assert (1_000, 300, 1.0) == (
        capture.value(name("steps")),
        capture.value(name("nonfinite")),
        capture.value(name("loss")),
    )
    assert [301] == [record.attributes[name("step")] for record in capture.events(name("nonfinite"))]


def test_through_the_loop_and_by_name_as_well(capture: Capture) -> None:
    """``step.log`` and raw events are no different."""
    capture.stopped()
    with cx.train("m") as run:
        for _, step in run.steps(range(2)):
            step.log(loss=NAN)
        run.step(loss=1.0)
        cx.emit_step({"loss": NAN}, {"step": 9})
    assert 3 == capture.value(name("nonfinite"))
    assert [1, 9] == [record.attributes[name("step")] for record in capture.events(name("nonfinite"))]


@pytest.mark.parametrize(
    ("severity", "signal", "options"),
    [
        ("ERROR", "gradient_norm", {}),
        ("WARN", "gradient_norm", {"loss_scaling": True}),
        ("ERROR", "loss", {"loss_scaling": True}),
    ],
)
def test_a_loss_scaler_makes_infinite_gradients_usual(
    capture: Capture, severity: str, signal: str, options: Any
) -> None:
    """A warning then, for the gradient norm alone."""
    capture.stopped()
    with cx.train("m", **options) as run:
        run.step(**{signal: INF})
    (record,) = capture.events(name("nonfinite"))
    assert (severity, signal) == (record.severity_text, record.attributes[name("signal")])


def test_values_of_epochs_and_evaluations_are_watched_too(capture: Capture) -> None:
    """The gauge of a value that is not finite stops until a finite one comes."""
    capture.configure()
    with cx.train("m") as run:
        for epoch in run.epochs(3):
            epoch.log(loss=NAN if epoch == 1 else 0.5)
            with run.evaluate("validation") as evaluation:
                evaluation.log(accuracy=INF if epoch < 2 else 0.75)
    assert (0.5, 0.75) == (capture.value(name("epoch.loss")), capture.value(name("evaluation.metric")))
    assert 3 == sum(point.value for point in capture.points(name("nonfinite")))
    assert 2 == len(capture.events(name("nonfinite")))


def test_negative_losses_are_losses(capture: Capture) -> None:
    """Log-likelihoods and rewards; the gauge and the log have them as they are."""
    capture.stopped()
    with cx.train("m") as run:
        run.step(loss=-2.5)
    assert -2.5 == capture.value(name("loss"))
    assert [-2.5] == [record.attributes[name("loss.value")] for record in capture.events(name("step"))]


@pytest.mark.parametrize(
    "loss", [2, True, np.float32(2.0), np.float64(2.0), np.array(2.0), np.array([2.0]), "2.0"], ids=repr
)
def test_any_number_is_one(capture: Capture, loss: Any) -> None:
    """Integers, NumPy's numbers and arrays of one element; even a text that is one."""
    capture.stopped()
    with cx.train("m") as run:
        run.step(loss=loss)
    assert float(loss if not isinstance(loss, np.ndarray) else loss.item()) == capture.value(name("loss"))


@pytest.mark.parametrize("loss", ["much", object(), [1.0, 2.0], np.zeros(3), 1j])
def test_what_is_no_number_is_refused_and_counted(capture: Capture, loss: Any) -> None:
    """The step counts, the gauge keeps its last value, nothing raises."""
    capture.stopped()
    with cx.train("m") as run:
        run.step(loss=1.0)
        run.step(loss=loss)
    assert (2, 1.0) == (capture.value(name("steps")), capture.value(name("loss")))
    assert 1 <= capture.value("crucible.sdk.refused_attributes", crucible__sdk__refusal__reason="dropped")


# -- tensors -----------------------------------------------------------------------------------------------------------


class Graph:
    """What a tensor holds on to until it is detached."""


class Device:
    """Where a tensor lives."""

    def __init__(self, type: str) -> None:
        self.type = type


class Tensor:
    """Looks like one of torch's; counts what is asked of it."""

    shape = ()
    dtype = "float32"

    def __init__(self, value: float, device: str = "cpu", graph: Graph | None = None) -> None:
        self.value, self.device, self.graph = value, Device(device), graph
        self.reads: list[float] = []

    def detach(self) -> Tensor:
        other = Tensor(self.value, self.device.type)
        other.reads = self.reads
        return other

    def item(self) -> float:
        if self.graph is not None:
            raise AssertionError
        self.reads.append(self.value)
        return self.value

    __float__ = item

    def __add__(self, other: object) -> Any:
        raise AssertionError

    __radd__ = __bool__ = __eq__ = __lt__ = __add__  # type: ignore[assignment]
    __hash__ = object.__hash__


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("how", ["step", "loop", "epoch", "evaluation"])
def test_a_tensor_keeps_no_graph(capture: Capture, device: str, how: str) -> None:
    """It is detached at once; what made it can be freed."""
    capture.configure()
    graph = Graph()
    alive = weakref.ref(graph)
    with cx.train("m") as run, run.epoch(0) as epoch:
        loss = Tensor(2.5, device, graph)
        if how == "step":
            run.step(loss=loss, gradient_norm=Tensor(1.5, device))
        elif how == "epoch":
            epoch.log(loss=loss)
        elif how == "evaluation":
            with run.evaluate("test") as evaluation:
                evaluation.log(loss=loss)
        else:
            for _, step in run.steps(range(1)):
                step.log(loss=loss)
        del loss, graph
        gc.collect()
        assert alive() is None
    metric = {"epoch": "epoch.loss", "evaluation": "evaluation.metric"}.get(how, "loss")
    assert 2.5 == capture.value(name(metric))


def test_a_tensor_on_an_accelerator_is_not_read_step_by_step(capture: Capture) -> None:
    """Reading waits for the device: of the steps between two collections and log events only the last one is read."""
    capture.stopped()
    reads: list[float] = []
    with cx.train("m") as run:
        run.step(loss=1.0)
        for number in range(200):
            tensor = Tensor(float(number), "cuda")
            tensor.reads = reads
            run.step(loss=tensor, gradient_norm=tensor, metrics={"ppl": tensor})
        assert [] == reads
        assert 199.0 == capture.value(name("loss"))
    assert {199.0} == set(reads)


def test_a_tensor_reaches_handlers_as_a_number(capture: Capture) -> None:
    """A handler that is attached to steps has them read."""
    capture.configure()
    seen = listen("crucible.training.step")
    with cx.train("m") as run:
        run.step(loss=Tensor(2.5, "cuda"))
    assert 2.5 == seen[0][1]["loss"]


# -- log events --------------------------------------------------------------------------------------------------------


def test_log_events_are_correlated(capture: Capture) -> None:
    """Each carries the trace and the span it belongs to, its name, a severity and a body."""
    capture.configure()
    with cx.workflow("w"), cx.train("m") as run:
        for _ in run.epochs(1):
            for _, step in run.steps(range(1)):
                step.log(loss=1.0)
            with run.evaluate("test"):
                run.evaluation({"x": 1})
    spans = {span.name: span.context for span in capture.spans}
    owners = {
        "crucible.workflow.start": "run_workflow w",
        "crucible.workflow.stop": "run_workflow w",
        "crucible.training.start": "train m",
        "crucible.training.stop": "train m",
        "crucible.training.epoch.start": "train_epoch",
        "crucible.training.epoch.stop": "train_epoch",
        "crucible.training.step": "train_epoch",
        "crucible.training.evaluation.start": "evaluate test",
        "crucible.training.evaluation.stop": "evaluate test",
        "crucible.training.evaluation": "evaluate test",
    }
    assert {event: spans[owner].span_id for event, owner in owners.items()} == {
        record.event_name: record.span_id for record in capture.logs
    }
    assert {spans["train m"].trace_id} == {record.trace_id for record in capture.logs}
    assert [True] * len(owners) == [bool(record.body and record.severity_text) for record in capture.logs]


@pytest.mark.parametrize(
    ("events", "logs", "on_spans"),
    [
        ("log", True, []),
        ("span", False, ["crucible.dataset.load", "my.event"]),
        ("both", True, ["crucible.dataset.load", "my.event"]),
        ("off", False, []),
    ],
)
def test_events_go_where_the_setting_says(capture: Capture, events: str, logs: bool, on_spans: list[str]) -> None:
    """As log records, as events of the span around them, both, or neither; handlers and metrics get theirs."""
    capture.configure(events=events)
    seen = listen()
    with cx.stage("s"):
        cx.dataset.load("d", size=5)
        cx.execute("my.event", {"x": 1})
    assert ["crucible.stage.start", "crucible.dataset.load", "my.event", "crucible.stage.stop"] == seen.names
    assert (seen.names if logs else []) == [record.event_name for record in capture.logs]
    assert on_spans == [event.name for event in capture.span("run_stage s").events]
    assert 5 == capture.value("crucible.dataset.size")


def test_attribute_values_are_converted_or_dropped_and_counted(capture: Capture) -> None:
    """What OpenTelemetry cannot hold becomes text or JSON, an accelerator's tensor is left out; nothing raises."""
    capture.configure(events="off")
    weird = {"where": object, "nested": {"a": [1, {"b": 2}]}, "mixed": [1, "a"], "gpu": Tensor(1.0, "cuda")}
    with cx.stage("s", **weird, fine=[1, 2], none=None):
        pass
    attributes = dict(capture.span("run_stage s").attributes)
    assert ("builtins.object", '{"a":[1,{"b":2}]}', '[1,"a"]', (1, 2)) == tuple(
        attributes[key] for key in ("where", "nested", "mixed", "fine")
    )
    assert {"gpu", "none"}.isdisjoint(attributes)
    assert [3, 1] == [
        capture.value("crucible.sdk.refused_attributes", crucible__sdk__refusal__reason=reason)
        for reason in ("converted", "dropped")
    ]


def test_maps_where_maps_belong_are_not_counted_as_converted(capture: Capture) -> None:
    """Metrics and a configuration are JSON by design; a number inside of them that does not fit is counted still."""
    capture.configure()
    with cx.train("m", config={"depth": 2}) as run:
        run.step(loss=1.0, metrics={"perplexity": 2.0})
        with run.evaluate() as evaluation:
            evaluation.log(accuracy=0.9)
        run.evaluation({"accuracy": 0.9})
        with run.epoch(0) as epoch:
            epoch.log(metrics={"accuracy": 0.9})
    assert '{"accuracy":0.9}' == capture.span("evaluate validation").attributes["crucible.training.metrics"]
    assert [] == capture.points("crucible.sdk.refused_attributes")

    with cx.train("m", config={"seed": 2**100}):
        pass
    assert 1 == capture.value("crucible.sdk.refused_attributes", crucible__sdk__refusal__reason="converted")


@pytest.mark.parametrize("logs", [("otlp",), ("none",)])
@pytest.mark.parametrize("events", ["log", "span", "both", "off"])
def test_a_refused_value_is_counted_once_wherever_its_event_goes(capture: Capture, events: Any, logs: Any) -> None:
    """Not for the span, the log record and the span event again; also when there are no logs."""
    capture.configure(events=events, logs_exporter=logs)
    with cx.stage("s", where=object) as stage:  # one, in the start; the end says the same again
        stage.set(mixed=[1, "a"], gpu=Tensor(1.0, "cuda"))
    cx.dataset.load("d", duration_s=1.0, of=object)  # a span after the fact
    cx.execute("my.event", {}, {"of": object})
    cx.execute("crucible.stage.stop", {"duration": 5}, {"stage": "no start", "of": object})
    assert [5, 1] == [
        capture.value("crucible.sdk.refused_attributes", crucible__sdk__refusal__reason=reason)
        for reason in ("converted", "dropped")
    ]
