"""Real tensors, as training loops hand them in."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crucible_otel as cx
from crucible_otel.semconv.names import PROCESS_PID
from crucible_otel.semconv.training import (
    DATA_WAIT,
    LOSS_GAUGE,
    METRIC_GAUGE,
    NONFINITE,
    NORM_GAUGE,
    SAMPLES,
    STEP_DURATION,
    STEPS,
)
from crucible_otel.testing import OtlpReceiver
from tests.integration.programs import run as run_program
from tests.integration.programs import sending_to

pytestmark = pytest.mark.torch


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A receiver that is open during the test."""
    with OtlpReceiver() as opened:
        yield opened


@pytest.fixture
def telemetry(receiver: OtlpReceiver) -> Iterator[cx.Telemetry]:
    """The real pipeline, towards the receiver."""
    with cx.configure(endpoint=receiver.http_endpoint, metrics_exporter=("otlp",)) as configured:
        yield configured


class Marker:
    """Lives as long as the graph that it was put into."""


def loss_with_graph(value: float = 0.5) -> tuple[Any, weakref.ref[Marker]]:
    """Return a loss that needs a gradient, and a reference that dies with its graph."""
    import torch

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, weight: Any, marker: Marker) -> Any:
            ctx.marker = marker
            return weight * 2

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return gradients[0] * 2, None

    marker = Marker()
    weight = torch.tensor([value / 2], requires_grad=True)
    return Marked.apply(weight, marker).sum(), weakref.ref(marker)


def alive(references: list[weakref.ref[Marker]]) -> int:
    """Count the graphs that somebody keeps."""
    gc.collect()
    return sum(reference() is not None for reference in references)


def test_the_test_sees_a_graph_that_is_kept() -> None:
    """Holding the loss holds its graph: what the next tests find is not nothing."""
    loss, reference = loss_with_graph()

    assert 1 == alive([reference])
    assert loss.requires_grad
    del loss
    assert 0 == alive([reference])


@pytest.mark.parametrize("way", ["run.step", "step.log", "execute", "metrics", "handler"])
def test_no_graph_outlives_its_step(telemetry: cx.Telemetry, way: str) -> None:
    """Ten losses with a graph, by each way in; none is kept, though nothing has been collected yet."""
    references = []
    seen: list[Any] = []
    if way == "handler":
        cx.attach_handler("keeps", ["crucible.training.step"], lambda name, values, fields, config: seen.append(values))
    try:
        with cx.train("m") as run:
            for _, step in run.steps(range(10)):
                loss, reference = loss_with_graph()
                references.append(reference)
                if way in ("step.log", "handler"):
                    step.log(loss=loss)
                elif way == "run.step":
                    run.step(loss=loss)
                elif way == "metrics":
                    step.log(metrics={"further": loss})
                else:
                    cx.execute("crucible.training.step", {"loss": loss}, {"model": "m"})
                loss.backward()  # what it was logged with is still there
                del loss
            # The step in progress may hold its own until it ends.
            assert alive(references[:-1]) == 0
            assert alive(references) <= 1
    finally:
        cx.detach("keeps")
    assert 0 == alive(references)
    assert [] == [value for values in seen for value in values.values() if not isinstance(value, (int, float, dict))]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        ("torch.tensor(0.25)", 0.25),
        ("torch.tensor([0.25])", 0.25),
        ("torch.tensor([[0.25]])", 0.25),
        ("torch.tensor(0.25, dtype=torch.float64)", 0.25),
        ("torch.tensor(0.25, dtype=torch.bfloat16)", 0.25),
        ("torch.tensor(0.25, dtype=torch.float16)", 0.25),
        ("torch.tensor(3)", 3.0),
        ("torch.tensor(-1.5, requires_grad=True) * 1", -1.5),
        ("torch.nn.Parameter(torch.tensor(0.25))", 0.25),
        ("torch.tensor(0.25, requires_grad=True).sum()", 0.25),
    ],
)
def test_the_value_of_a_tensor_arrives(
    telemetry: cx.Telemetry, receiver: OtlpReceiver, make: str, expected: float
) -> None:
    """Of any shape of one element, and any type: as loss, gradient norm and further value."""
    import torch

    value = eval(make, {"torch": torch})
    with cx.train("m") as run:
        run.step(loss=0.125)  # the first takes the slow road, for its log event
        run.step(loss=value, gradient_norm=value, metrics={"further": value})
        run.step(loss=value, gradient_norm=value)
    assert telemetry.flush()

    for metric in (LOSS_GAUGE, NORM_GAUGE, METRIC_GAUGE):
        assert [expected] == [point.value for point in receiver.latest(metric.name)]
    assert 3 == receiver.total(STEPS.name)


def test_what_is_no_number_is_dropped_and_the_step_counts(telemetry: cx.Telemetry, receiver: OtlpReceiver) -> None:
    """A vector, a complex number, a tensor without data: no exception, and no value."""
    import torch

    with cx.train("m") as run:
        for value in (torch.zeros(2), torch.tensor(1j), torch.zeros((), device="meta"), torch.zeros(0)):
            run.step(loss=value, gradient_norm=value, metrics={"further": value})
    assert telemetry.flush()

    assert 4 == receiver.total(STEPS.name)
    assert () == receiver.latest(LOSS_GAUGE.name) + receiver.latest(METRIC_GAUGE.name)
    assert receiver.total("crucible.sdk.refused_attributes") > 0


def test_a_loss_that_becomes_nan_is_counted_and_told_once(telemetry: cx.Telemetry, receiver: OtlpReceiver) -> None:
    """The gauge stops, the counter counts, and one error event says at which step."""
    import torch

    with cx.train("m") as run:
        for value in (0.5, math.nan, math.nan, math.inf):
            run.step(loss=torch.tensor(value, requires_grad=True) * 1)
    assert telemetry.flush()

    assert 3 == receiver.total(NONFINITE.name)
    assert () == receiver.latest(LOSS_GAUGE.name)
    (event,) = [log for log in receiver.logs if log.event_name == "crucible.training.nonfinite"]
    assert ("ERROR", 2) == (event.severity, event.attributes["crucible.training.step"])


def test_a_training_loop_of_pytorch_arrives_as_it_was(telemetry: cx.Telemetry, receiver: OtlpReceiver) -> None:
    """A model, an optimizer, a scheduler's rate, the norm that ``clip_grad_norm_`` returns, a real loader."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    data = torch.utils.data.TensorDataset(torch.randn(50, 4), torch.randn(50, 1))
    losses: list[float] = []
    norms: list[float] = []
    with cx.train("m") as run:
        for epoch in run.epochs(2):
            total = torch.zeros(())
            for (inputs, targets), step in run.steps(torch.utils.data.DataLoader(data, batch_size=8)):
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(inputs), targets)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                step.log(loss=loss, gradient_norm=norm, learning_rate=scheduler.get_last_lr()[0])
                losses.append(loss.item())
                norms.append(norm.item())
                total += loss.detach()
            scheduler.step()
            epoch.log(loss=total / 7)
            with run.evaluate("validation") as evaluation, torch.no_grad():
                evaluation.log(loss=torch.nn.functional.mse_loss(model(data.tensors[0]), data.tensors[1]))
    assert telemetry.flush()

    assert 2 * 7 == receiver.total(STEPS.name)
    assert 2 * 50 == receiver.total(SAMPLES.name)  # the last batch of an epoch is smaller
    assert [losses[-1]] == [point.value for point in receiver.latest(LOSS_GAUGE.name)]
    assert [norms[-1]] == [point.value for point in receiver.latest(NORM_GAUGE.name)]
    assert [0.05] == [point.value for point in receiver.latest("crucible.training.learning_rate")]
    (epoch_loss,) = receiver.latest("crucible.training.epoch.loss")
    assert epoch_loss.value == pytest.approx(sum(losses[7:]) / 7)
    (tree,) = receiver.trace_tree()
    assert ["train m", *["train_epoch", "evaluate validation"] * 2] == [node.span.name for _, node in tree.walk()]


LOADER = """
import json, os, sys
import torch
import crucible_otel as cx

class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return torch.full((4,), float(index)), torch.tensor(float(index * index))

def collate(samples):
    cx.dataset.batch(len(samples), dataset="squares", wait_s=0.001)
    return torch.utils.data.default_collate(samples)

if {everywhere} or __name__ == "__main__":
    cx.configure()

if __name__ == "__main__":
    seen = 0
    with cx.train("m") as run:
        loader = torch.utils.data.DataLoader(
            Squares(), batch_size=8, num_workers=2, collate_fn=collate, multiprocessing_context={context!r},
            persistent_workers={persistent},
        )
        for epoch in run.epochs(2):
            for (inputs, targets), step in run.steps(loader):
                seen += len(inputs)
                step.log(loss=targets.mean())
        del loader
    print(json.dumps([os.getpid(), seen]))
"""


def load(receiver: OtlpReceiver, folder: Path, *, context: str, persistent: bool, everywhere: bool = False) -> set[int]:
    """Train with a loader in two processes, and return the processes that reported batches, but for the parent."""
    script = folder / "loading.py"
    script.write_text(LOADER.format(context=context, persistent=persistent, everywhere=everywhere))
    # A file of its own, because spawned workers read the program again.
    ended = run_program(
        f"import os, sys; os.execv(sys.executable, [sys.executable, {str(script)!r}])", sending_to(receiver)
    )

    assert [] == ended.errors
    parent, seen = json.loads(ended.output[-1])
    assert 100 == seen == receiver.total(SAMPLES.name)
    for metric in (STEPS, STEP_DURATION, DATA_WAIT):
        assert 14 == receiver.total(metric.name)
        assert {parent} == {point.resource[PROCESS_PID] for point in receiver.points(metric.name)}
    (tree,) = receiver.trace_tree()
    assert ["train m", "train_epoch", "train_epoch"] == [node.span.name for _, node in tree.walk()]
    return {point.resource[PROCESS_PID] for point in receiver.points("crucible.dataset.batches")} - {parent}


@pytest.mark.parametrize("persistent", [False, True], ids=["new workers each epoch", "persistent workers"])
def test_forked_workers_of_a_data_loader_report_their_own_batches(
    receiver: OtlpReceiver, tmp_path: Path, persistent: bool
) -> None:
    """Two processes that load; the steps and samples are the parent's, the batches each worker's own."""
    workers = load(receiver, tmp_path, context="fork", persistent=persistent)

    assert (2 if persistent else 4) == len(workers)
    assert 14 == receiver.total("crucible.dataset.batches")
    assert 100 == receiver.total("crucible.dataset.records")


@pytest.mark.parametrize("everywhere", [False, True], ids=["configured in the parent", "configured everywhere"])
def test_spawned_workers_of_a_data_loader_report_when_they_are_configured(
    receiver: OtlpReceiver, tmp_path: Path, everywhere: bool
) -> None:
    """They are new programs: without a ``configure()`` of their own they report nothing and disturb nothing."""
    workers = load(receiver, tmp_path, context="spawn", persistent=True, everywhere=everywhere)

    assert (2 if everywhere else 0) == len(workers)
    assert (14 if everywhere else 0) == receiver.total("crucible.dataset.batches")


def test_a_cuda_tensor_is_not_waited_for(telemetry: cx.Telemetry, receiver: OtlpReceiver) -> None:
    """PyTorch itself watches: any synchronisation raises while the steps are recorded."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    weight = torch.tensor(0.0, device="cuda", requires_grad=True)
    with cx.train("m") as run:
        run.step(loss=0.5)  # the log event of the first step reads it
        torch.cuda.set_sync_debug_mode("error")
        try:
            for number in range(100):
                loss = weight + number
                run.step(loss=loss, gradient_norm=loss)
            for _, step in run.steps(range(100)):
                step.log(loss=weight + 7)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert telemetry.flush()

    assert 201 == receiver.total(STEPS.name)
    assert [7.0] == [point.value for point in receiver.latest(LOSS_GAUGE.name)]
    assert [99.0] == [point.value for point in receiver.latest(NORM_GAUGE.name)]
