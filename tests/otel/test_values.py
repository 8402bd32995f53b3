"""Values that are no floats: integers, NumPy scalars, tensors."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy
import pytest

from crucible_otel.otel.values import finite, number, settled, spelled
from crucible_otel.semconv.training import STEP_EVENT

from .engines import engine, value


class Graph:
    """What a tensor's history would hold on to."""


class Tensor:
    """Behaves like a tensor: a device, a history, a reading that waits for the device."""

    reads = 0

    def __init__(self, value: float, device: str = "cuda", graph: Graph | None = None) -> None:
        self._value, self.device, self.grad_fn = value, SimpleNamespace(type=device), graph

    def detach(self) -> Tensor:
        return Tensor(self._value, self.device.type)

    def __float__(self) -> float:
        Tensor.reads += 1
        return self._value


@pytest.fixture(autouse=True)
def _no_reads_yet() -> None:
    Tensor.reads = 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1.5, 1.5),
        (2, 2),
        (True, 1.0),
        (numpy.float32(0.5), 0.5),
        (numpy.float64(0.25), 0.25),
        (numpy.array(3.0), 3.0),
        (Tensor(4.0, "cpu"), 4.0),
        ("x", None),
        (object(), None),
        (None, None),
    ],
)
def test_everything_that_is_a_number_settles_to_one(given: object, expected: float | None) -> None:
    """And what is none settles to None."""
    assert settled(given) == expected


def test_an_accelerator_tensor_is_detached_and_not_read() -> None:
    """Reading it would wait for the device."""
    graph = Graph()
    kept = settled(Tensor(1.0, graph=graph))
    assert (kept.grad_fn, Tensor.reads) == (None, 0)
    assert number(kept) == 1.0


def test_a_chunk_of_accelerator_tensors_is_read_once() -> None:
    """Two chunks of losses on a device cost as many reads as there are folds and log events, not one a step."""
    one, _, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    for index in range(512):
        handle.record(loss=Tensor(float(index)))
    assert value(one, "crucible.training.loss") == 511.0
    assert Tensor.reads <= 4


def test_no_graph_is_kept_by_the_buffer() -> None:
    """The history of a loss is gone when the caller lets go of it, although the record waits in the buffer."""
    one, _, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    handle.record(loss=1.0)
    graph = Graph()
    gone = weakref.ref(graph)
    loss = Tensor(2.0, graph=graph)
    handle.record(loss=loss)
    del loss, graph
    gc.collect()
    assert gone() is None
    assert value(one, "crucible.training.loss") == 2.0


def test_floats_and_tensors_may_alternate() -> None:
    """A column of both is read value by value."""
    one, _, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    for loss in (1.0, Tensor(2.0), numpy.float32(3.0), Tensor(4.0, "cpu"), 5):
        handle.record(loss=loss)
    assert value(one, "crucible.training.loss") == 5
    assert value(one, "crucible.sdk.refused_attributes") is None


def test_a_tensor_that_cannot_be_read_is_refused() -> None:
    """Nothing is raised and nothing is made up."""

    class Broken(Tensor):
        def __float__(self) -> float:
            raise RuntimeError("device lost")

        def detach(self) -> Broken:
            return self

    one, _, _ = engine()
    handle = one.handle(STEP_EVENT, ("m",), None, {})
    handle.record(loss=Broken(1.0))
    assert value(one, "crucible.training.loss") is None
    assert value(one, "crucible.training.steps") == 1


def test_the_spelling_of_what_is_not_finite() -> None:
    """As in the protobuf JSON mapping."""
    assert [spelled(each) for each in (float("nan"), float("inf"), float("-inf"))] == ["NaN", "Infinity", "-Infinity"]
    assert [finite(each) for each in (1.0, float("nan"), None)] == [True, False, False]
