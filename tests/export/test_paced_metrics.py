"""That collections, exports and scrapes of many series, and folds of many kinds of calls, let other threads run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

import crucible_otel as cx
from crucible_otel.config.settings import Settings
from crucible_otel.export import delivery, exposition, merging, pace
from crucible_otel.export.exposition import families
from crucible_otel.export.faults import FaultCounter
from crucible_otel.export.halves import count_points
from crucible_otel.export.otlp import build_metric_delivery
from crucible_otel.export.own import OwnMetrics
from crucible_otel.export.readers import MemoryMetricReader
from crucible_otel.export.tally import Ledger
from crucible_otel.semconv import registry
from crucible_otel.semconv.training import STEP_EVENT
from crucible_otel.testing import OtlpReceiver
from tests.otel.engines import engine

SERIES = 300
MOST_IN_A_SLICE = 64 * 11

Pauses = Callable[..., list[float]]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Pauses:
    """Have a part of a slice go by each time a module looks at the clock, and return its pauses."""

    def of(module: ModuleType, part: float = 0.1) -> list[float]:
        slept = list[float]()
        clock, real = count(step=part * pace.SLICE_S), pace.Pace
        monkeypatch.setattr(module, "Pace", lambda **options: real(clock.__next__, slept.append, **options))
        return slept

    return of


def collected() -> MetricsData:
    """Collect the steps of many models."""
    source, clock, _ = engine()
    for number in range(SERIES):
        handle = source.handle(STEP_EVENT, (f"model {number}",), None, {})
        clock.advance(0.1)
        handle.record(loss=1.5)
    reader = MemoryMetricReader(source)
    OwnMetrics(source, registry.METRICS.values(), [reader], resource=Resource({}))
    data = reader.get_metrics_data()
    assert data is not None
    return data


def test_a_collection_pauses_between_series(pauses: Pauses) -> None:
    """While they are read, and again while points are made of them."""
    slept = pauses(merging)

    points = count_points(collected())

    assert points > 3 * SERIES
    assert len(slept) > 2 * points / MOST_IN_A_SLICE
    assert {pace.PAUSE_S} == set(slept)


@pytest.mark.parametrize("asked", [True, False], ids=["flush", "background"])
def test_a_fetch_of_spans_pauses_between_the_places_of_calls_and_steps(
    pauses: Pauses, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """Those that were not folded yet are folded then."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100000" if asked else "50")
    slept, lines = pauses(pace, part=0.5), SERIES
    told = {**dict.fromkeys(("queue_ns", "serialize_ns", "execute_ns", "deserialize_ns"), 1_000), "nbytes": 1}
    only_spans: dict[str, Any] = {"metrics_exporter": "none", "prometheus_port": 0, "gpu": "off"}  # else metrics fold
    with (
        OtlpReceiver() as receiver,
        cx.configure(endpoint=receiver.http_endpoint, step_sample_rate=1.0, **only_spans) as made,
    ):

        def arrived(names: str) -> bool:
            if asked:
                assert made.flush()
            return receiver.wait_for(lambda: lines == sum(span.name.startswith(names) for span in receiver.spans))

        with cx.workflow("calls"):
            for number in range(lines):
                cx.call("library", f"function {number}").record(5_000, **told)
            assert arrived("call ")
        of_calls = len(slept)
        with ExitStack() as stack:
            for run in [stack.enter_context(cx.train(f"model {number}")) for number in range(lines)]:
                run.step(loss=1.5)
            assert arrived("train_step")
    assert of_calls > lines / 4
    assert len(slept) - of_calls > lines / 4


def test_an_export_pauses_between_points(pauses: Pauses) -> None:
    """While they are written."""
    data, slept = collected(), pauses(delivery)

    with OtlpReceiver() as receiver:
        sender = build_metric_delivery(Settings(endpoint=receiver.http_endpoint).resolve(os.environ), Ledger())
        sender.export(data)
        sender.shutdown()
        assert count_points(data) == len(receiver.points())

    assert len(slept) > count_points(data) / MOST_IN_A_SLICE


def test_a_scrape_pauses_between_samples(pauses: Pauses) -> None:
    """While they are made of points, and again while the page is written."""
    data, slept = collected(), pauses(exposition)

    class Page(Collector):
        def collect(self) -> list[Family]:
            return families(data, FaultCounter("test"))

    registry = CollectorRegistry()
    registry.register(Page())
    page = generate_latest(registry)
    samples = page.count(b"\n") - page.count(b"\n#")

    assert samples > 15 * SERIES
    assert len(slept) > (count_points(data) + samples) / MOST_IN_A_SLICE
