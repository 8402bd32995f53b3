"""Nothing is lost and nothing counted twice, whatever goes on at once."""

from __future__ import annotations

import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

import crucible_otel as cx
from crucible_otel.semconv.names import MODEL_NAME
from crucible_otel.semconv.sdk import DROPPED
from crucible_otel.semconv.training import STEP_DURATION, STEPS, TOKENS
from crucible_otel.testing import OtlpReceiver, ReceivedMetric

THREADS = 8
EACH = 100_000
"""What each thread does at least; it goes on until there were enough collections meanwhile."""

COLLECTIONS = 3
GIVE_UP_S = 60.0
PAUSE_S = 0.02
"""Between two collections, so that the steps get their share of the processor."""


class Running(NamedTuple):
    """Telemetry at work, and the page that Prometheus would scrape.

    Attributes:
        merges: Whether points leave merged; else histogram values wait for a collection and some are dropped, counted.
    """

    telemetry: cx.Telemetry
    url: str
    merges: bool


class Scraped(PrometheusMetricReader):
    """The exporter's reader without its flush, which would leave a second set of series for the next scrape."""

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True


@contextmanager
def application(receiver: OtlpReceiver, between: bool) -> Iterator[str]:
    """Install a MeterProvider of an application's, and yield its page.

    Args:
        receiver: Where its OTLP exporter sends to.
        between: Whether somebody else stands between the provider and a reader, so that we leave them alone.
    """
    pages = CollectorRegistry()
    pushing = PeriodicExportingMetricReader(OTLPMetricExporter(f"{receiver.http_endpoint}/v1/metrics"))
    provider = MeterProvider([pushing, Scraped(registry=pages)], shutdown_on_exit=False)
    if between:
        collect: Any = pushing._collect
        pushing._set_collect_callback(lambda *args, **kwargs: collect(*args, **kwargs))
    before, metrics._internal._METER_PROVIDER = metrics._internal._METER_PROVIDER, provider
    server, thread = start_http_server(0, "127.0.0.1", pages)
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        provider.shutdown()
        metrics._internal._METER_PROVIDER = before


@pytest.fixture(params=["cumulative", "delta"])
def temporality(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the OTLP exporter asks for."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", request.param)
    return str(request.param)


@pytest.fixture(params=["own", "readers", "callback"])
def running(request: pytest.FixtureRequest, receiver: OtlpReceiver, temporality: str) -> Iterator[Running]:
    """The real pipeline, towards the receiver and a scrape: of our own, and by two ways in an application's."""
    with ExitStack() as stack:
        url = None
        if request.param != "own":
            url = stack.enter_context(application(receiver, between=request.param == "callback"))
        telemetry = stack.enter_context(
            cx.configure(endpoint=receiver.http_endpoint, prometheus_port=0, metrics_exporter=("otlp", "prometheus"))
        )
        assert (None if url is None else request.param) == telemetry.status()["joined_metrics"]
        url = url or telemetry.prometheus_url
        assert url is not None
        yield Running(telemetry, url, merges=request.param != "callback")


class Observed:
    """Counter, histogram count and sum of its buckets in one collection, by model."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = defaultdict(int)
        self.count: dict[str, int] = defaultdict(int)
        self.buckets: dict[str, int] = defaultdict(int)

    @property
    def agree(self) -> bool:
        return self.steps == self.count == self.buckets


def collections(points: Iterable[ReceivedMetric]) -> list[Observed]:
    """Tell OTLP collections apart by their time."""
    found: dict[int, Observed] = defaultdict(Observed)
    for point in points:
        model = point.attributes.get(MODEL_NAME)
        if point.name == STEPS.name:
            found[point.time_ns].steps[model] += point.value
        elif point.name == STEP_DURATION.name:
            found[point.time_ns].count[model] += point.count
            found[point.time_ns].buckets[model] += sum(point.buckets)
    return [found[at] for at in sorted(found)]


def dropped(receiver: OtlpReceiver) -> int | float:
    """Return how many histogram values found no room, by our own account."""
    return receiver.total(DROPPED.name, {DROPPED.attributes[1]: "divert_full"})


def scrape(url: str) -> Observed:
    """Ask as Prometheus does."""
    with urllib.request.urlopen(url, timeout=60) as response:
        text = response.read().decode()
    observed = Observed()
    before = 0.0
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            model = labels.get("crucible_model_name", "")
            if name == "crucible_training_steps_total":
                observed.steps[model] += int(value)
            elif name == "crucible_training_step_duration_seconds_count":
                observed.count[model] += int(value)
            elif name == "crucible_training_step_duration_seconds_bucket":
                assert value >= before or labels["le"] == min_bound(family)
                before = value
                if labels["le"] == "+Inf":
                    observed.buckets[model] += int(value)
    return observed


def min_bound(family: Any) -> str:
    """Return the lowest bound, where the cumulative counts of a series begin."""
    return min((sample.labels["le"] for sample in family.samples if "le" in sample.labels), key=float)


@contextmanager
def repeatedly(action: Callable[[], object]) -> Iterator[None]:
    """Do something again and again in a thread, during the block."""
    done = threading.Event()
    failures: list[BaseException] = []

    def loop() -> None:
        try:
            while not done.wait(PAUSE_S):
                action()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert [] == failures


def in_threads(work: Callable[[int], object]) -> None:
    """Do something in all threads at once, to its end."""
    start = threading.Barrier(THREADS)

    def begin(number: int) -> None:
        sys.settrace(None)  # here steps are counted, not lines: a coverage tool would take most of the time
        start.wait()
        work(number)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_eight_threads_lose_and_double_nothing_under_concurrent_collections(
    running: Running, receiver: OtlpReceiver
) -> None:
    """Steps of a handle that all share and of one each, while OTLP flushes and Prometheus scrapes consistent sets."""
    scrapes: list[Observed] = []
    flushes: list[bool] = []
    rounds = [0] * THREADS
    telemetry, url, merges = running
    least = EACH if merges else EACH // 4  # a collection there waits for the SDK, which stops it after ten seconds

    given_up_s = time.monotonic() + GIVE_UP_S

    def done(number: int) -> bool:
        if rounds[number] < least // 20:
            return False
        time.sleep(PAUSE_S)  # threads that never rest leave little to the one that scrapes
        return len(scrapes) >= COLLECTIONS <= sum(flushes) or time.monotonic() > given_up_s

    with cx.train("shared") as shared:

        def work(number: int) -> None:
            with cx.train("own") as own:
                one, other = shared.step, own.step
                while not done(number):
                    for _ in range(10):
                        one(loss=0.5, tokens=2)
                    for _ in range(10):
                        other(loss=0.5, tokens=3)
                    rounds[number] += 1

        with (
            repeatedly(lambda: flushes.append(telemetry.flush(timeout_s=30))),
            repeatedly(lambda: scrapes.append(scrape(url))),
        ):
            in_threads(work)
        scrapes.append(scrape(url))
    assert telemetry.flush(timeout_s=30)
    flushed = collections(receiver.points())
    assert telemetry.shutdown(30)

    made = dict.fromkeys(("shared", "own"), 10 * sum(rounds))
    for model, steps in made.items():
        assert steps == receiver.total(STEPS.name, {MODEL_NAME: model})
        assert not merges or steps == receiver.total(STEP_DURATION.name, {MODEL_NAME: model})
    assert not merges or 0 == dropped(receiver)
    assert sum(made.values()) == receiver.total(STEP_DURATION.name) + dropped(receiver)
    assert 5 * 10 * sum(rounds) == receiver.total(TOKENS.name)
    assert made == scrapes[-1].steps
    if merges:
        assert [] == [each for each in [*flushed, *collections(receiver.points()), *scrapes] if not each.agree]
    assert [] == [pair for pair in pairwise(scrapes) for model in made if pair[0].steps[model] > pair[1].steps[model]]
    assert len(scrapes) > COLLECTIONS <= sum(flushes)


def test_shutdown_delivers_what_was_made_before_it_and_nothing_twice(running: Running, receiver: OtlpReceiver) -> None:
    """Threads that go on stepping while it shuts down lose none of the steps they had made before."""
    telemetry, made = running.telemetry, [0] * THREADS
    going_on, ended = threading.Event(), threading.Event()
    with cx.train("m") as run:

        def work(number: int) -> None:
            step = run.step
            while not ended.is_set():
                for _ in range(1_000):
                    step(loss=0.5)
                    made[number] += 1
                if made[number] >= 5_000:
                    going_on.set()
                    if not running.merges:  # each value is recorded by the SDK, which must keep up with eight threads
                        ended.wait(0.05)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        assert going_on.wait(60)
        before = sum(made)
        delivered = telemetry.shutdown(30)
        ended.set()
        for thread in threads:
            thread.join()

    total = receiver.total(STEPS.name)
    assert delivered
    assert before <= total <= sum(made)
    if running.merges:
        assert total == receiver.total(STEP_DURATION.name)
        assert [] == [each for each in collections(receiver.points()) if not each.agree]


def test_dataset_batches_are_counted_exactly_too(running: Running, receiver: OtlpReceiver) -> None:
    """The second hot family: one handle for all threads, found by name at each call."""

    def work(number: int) -> None:
        batch = cx.dataset.batch
        for _ in range(EACH // 20):
            batch(32, dataset="digits", wait_s=0.001)

    telemetry, url, merges = running
    with repeatedly(telemetry.flush), repeatedly(lambda: scrape(url)):
        in_threads(work)
    assert telemetry.shutdown(30)

    made = THREADS * EACH // 20
    assert made == receiver.total("crucible.dataset.batches")
    assert 32 * made == receiver.total("crucible.dataset.records")
    waited, sizes = (receiver.total(f"crucible.dataset.batch.{name}") for name in ("wait_time", "size"))
    assert 2 * made == waited + sizes + dropped(receiver)
    assert not merges or (made, 32 * made) == (waited, receiver.total("crucible.dataset.batch.size", of="sum"))


def test_calls_are_counted_exactly_too(running: Running, receiver: OtlpReceiver) -> None:
    """Reported by one object of all threads, and around blocks that say something or fail."""
    reported = cx.call("lib", "reported")

    def work(number: int) -> None:
        for _ in range(EACH // 1_000):
            reported.record(1_000, queue_ns=1, serialize_ns=2, execute_ns=3, deserialize_ns=4, nbytes=2)
            with cx.call("lib", "block") as call:
                call.io(3)
            with suppress(ValueError), cx.call("lib", "failed"):
                raise ValueError

    telemetry, url, merges = running
    with repeatedly(telemetry.flush), repeatedly(lambda: scrape(url)):
        in_threads(work)
    assert telemetry.shutdown(30)

    made = THREADS * EACH // 1_000
    functions = ("reported", "block", "failed")
    assert [made] * 3 == [receiver.total("crucible.calls", {"code.function.name": name}) for name in functions]
    assert 5 * made == receiver.total("crucible.call.io")
    phases = [
        receiver.total(f"crucible.call.{name}.duration") for name in ("queue", "serialize", "execute", "deserialize")
    ]
    durations = receiver.total("crucible.call.duration")
    assert 7 * made == sum(phases) + durations + dropped(receiver)
    assert not merges or ([made] * 4, 3 * made) == (phases, durations)
