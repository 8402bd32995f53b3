"""Percentiles that PromQL reads from the histograms, against those of the very durations that went into them."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from crucible_otel.semconv import call, dataset, inference, training
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.prometheus import family_name
from tests.e2e.servers import Prometheus
from tests.integration.programs import Program

numpy = pytest.importorskip("numpy", reason="the demo's extra")

SIZE = 2_000
QUANTILES = (0.5, 0.9, 0.99)
SEED = 20_240_229

PROGRAM = """
import json, sys
import crucible_otel as cx
from crucible_otel.testing import FakeClock

clock = FakeClock()
cx.configure(clock=clock)

def made_calls(name, durations):
    for duration in durations:
        with cx.call("library", name) as call:
            clock.advance(duration)
            call.timing(execute_ns=round(duration * 1e9))

def inferred(name, durations):
    for duration in durations:
        with cx.inference(name, batch_size=1):
            clock.advance(duration)

def stepped(name, durations):
    with cx.train(name) as run:
        for number, duration in enumerate(durations):
            clock.advance(duration)
            run.step(loss=0.5, step=number)

def loaded(name, durations):
    for duration in durations:
        cx.dataset.batch(1, dataset=name, wait_s=duration)

with open(sys.stdin.readline().strip()) as file:
    shapes = json.load(file)
for name, durations in shapes.items():
    for record in (made_calls, inferred, stepped, loaded):
        record(name, durations)
print("recorded", flush=True)
sys.stdin.readline()
"""


class Recorded(NamedTuple):
    """A histogram of what the program does, and the label by which its distributions are told apart."""

    metric: Metric
    label: str


RECORDED = {
    "call": Recorded(call.DURATION, "code_function_name"),
    "execute": Recorded(call.EXECUTE, "code_function_name"),
    "inference": Recorded(inference.DURATION, "crucible_model_name"),
    "step": Recorded(training.STEP_DURATION, "crucible_model_name"),
    "batch": Recorded(dataset.BATCH_WAIT, "crucible_dataset_name"),
}


def distributions() -> dict[str, list[float]]:
    """Return durations in seconds, by the name of their shape."""
    random = numpy.random.default_rng(SEED)
    fast, slow = random.normal(0.004, 0.0004, SIZE * 7 // 10), random.normal(1.7, 0.2, SIZE * 3 // 10)
    shapes = {
        "lognormal": random.lognormal(-3.0, 1.2, SIZE),
        "bimodal": random.permutation(numpy.concatenate([fast, slow])).clip(min=0.001),
        "constant": numpy.full(SIZE, 0.03),
        "beyond": random.uniform(100.0, 200.0, SIZE),
    }
    return {name: [round(float(each), 9) for each in values] for name, values in shapes.items()}


def bucket(bounds: Sequence[float], value: float) -> int:
    """Return which bucket a value is in; a bound belongs to the bucket below it."""
    return bisect_left(bounds, value)


def test_percentiles_are_in_the_bucket_of_the_exact_ones(prometheus: Prometheus, tmp_path: Path) -> None:
    """Of calls, their phases, inferences, steps and waits for data: each shape by itself, and all of them together."""
    shapes = distributions()
    path = tmp_path / "durations.json"
    path.write_text(json.dumps(shapes))
    port = prometheus.take_ports()
    environ = {
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
    }
    with Program(PROGRAM, environ) as program:
        program.say(str(path))
        assert "recorded" == program.line()
        together = [each for values in shapes.values() for each in values]
        compared = 0
        for metric, label in RECORDED.values():
            name, instance = family_name(metric), f'instance="127.0.0.1:{port}"'
            prometheus.becomes(len(together), f"sum({name}_count{{{instance}}})", timeout_s=60)
            for shape, values in (*shapes.items(), (".*", together)):
                selected = f'{name}_bucket{{{instance},{label}=~"{shape}"}}'
                filled = {labels["le"]: value for labels, value in prometheus.query(f"sum by (le) ({selected})")}
                assert {str(bound): sum(each <= bound for each in values) for bound in metric.buckets} == {
                    bound: value for bound, value in filled.items() if bound != "+Inf"
                }, (name, shape)
                for quantile in QUANTILES:
                    ((_, answer),) = prometheus.query(f"histogram_quantile({quantile}, sum by (le) ({selected}))")
                    exact = float(numpy.quantile(values, quantile, method="inverted_cdf"))
                    # Of what is beyond the last bound, PromQL answers that bound.
                    expected = min(bucket(metric.buckets, exact), len(metric.buckets) - 1)
                    assert expected == bucket(metric.buckets, answer), (name, shape, quantile, answer, exact)
                    compared += 1
        program.say()
        assert 0 == program.end().code
    assert len(RECORDED) * (len(shapes) + 1) * len(QUANTILES) == compared
