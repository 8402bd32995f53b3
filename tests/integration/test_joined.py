"""An application that has its own OpenTelemetry: ours goes its way, and nothing of it is replaced or added to."""

from __future__ import annotations

import json

import pytest

from crucible_otel.semconv.names import RESULT, SERVICE_NAME
from crucible_otel.semconv.training import NONFINITE, STEP_DURATION, STEPS
from crucible_otel.testing import OtlpReceiver
from tests.integration.programs import Ended, run, sending_to

APPLICATION = """
import json, os, sys, threading
from opentelemetry import _logs, metrics, trace
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality, InMemoryMetricReader, MetricReader, PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

resource = Resource.create({"service.name": "application"})
DELTA = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
OURS = ("crucible.training.steps", "crucible.training.step.duration")

def counts(data):
    found = dict.fromkeys(OURS, 0)
    for scope in data.resource_metrics[0].scope_metrics if data else ():
        for metric in scope.metrics:
            if metric.name in found:
                points = metric.data.data_points
                found[metric.name] = sum(point.value if hasattr(point, "value") else point.count for point in points)
    return found

class DeltaReader(MetricReader):
    # Adds up what its collections bring, whoever asks for them: a flush of the provider does too.
    def __init__(self):
        super().__init__(preferred_temporality=DELTA)
        self.total = dict.fromkeys(OURS, 0)

    def _receive_metrics(self, metrics_data, timeout_millis=10_000, **kwargs):
        for name, count in counts(metrics_data).items():
            self.total[name] += count

    def shutdown(self, timeout_millis=30_000, **kwargs):
        pass

cumulative, delta = InMemoryMetricReader(), DeltaReader()

def read():
    delta.collect()
    return [counts(cumulative.get_metrics_data()), delta.total]

def install_traces():
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider

def install_metrics():
    pushing = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=3_600_000)
    provider = MeterProvider([pushing, cumulative, delta], resource=resource)
    metrics.set_meter_provider(provider)
    if os.environ["ROUTE"] == "callback":  # somebody else stands between the provider and a reader
        collect = pushing._collect
        pushing._set_collect_callback(lambda *args, **kwargs: collect(*args, **kwargs))
        # On a busy machine the 50 ms of a collection may be over before it begins, and the rest comes with the next.
        from crucible_otel.export.joined import join
        join.__kwdefaults__["budget_s"] = 60.0
    return provider

def install_logs():
    provider = LoggerProvider(resource=resource)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    _logs.set_logger_provider(provider)
    return provider

def globals_now():
    return [trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()]

def inside(tracers, meters, loggers):
    return [
        list(tracers._active_span_processor._span_processors),
        list(meters._measurement_consumer._reader_storages),
        list(loggers._multi_log_record_processor._log_record_processors),
    ]

import crucible_otel as cx
"""

INSTALL_ALL = """
installed = [install_traces(), install_metrics(), install_logs()]
before = inside(*installed)
telemetry = cx.configure()
assert os.environ["ROUTE"] == telemetry.status()["joined_metrics"]
"""

LOOP = """
with trace.get_tracer("application").start_as_current_span("request"), cx.workflow("joined"), cx.train("m") as run:
    for epoch in run.epochs(2):
        for batch, step in run.steps([[1, 2, 3]] * 20):
            step.log(loss=0.5)
"""


@pytest.fixture(params=["readers", "callback"])
def route(request: pytest.FixtureRequest) -> str:
    """How our metrics get into the application's provider."""
    return str(request.param)


def arrived(receiver: OtlpReceiver) -> None:
    """Check that all of the loop arrived, once, as the application's own."""
    assert 40 == receiver.total(STEPS.name)
    assert 40 == receiver.total(STEP_DURATION.name)
    (tree,) = receiver.trace_tree()
    names = [node.span.name for _, node in tree.walk()]
    assert ["request", "run_workflow joined", "train m", "train_epoch", "train_epoch"] == names
    assert ["success"] * 4 == [span.attributes[RESULT] for span in receiver.spans if span.name != "request"]
    spans = {span.span_id for span in receiver.spans}
    assert {True} == {log.span_id in spans for log in receiver.logs}
    events = [log.event_name for log in receiver.logs]
    assert 1 == events.count("crucible.workflow.stop")
    everything = [*receiver.spans, *receiver.logs, *receiver.points()]
    assert {"application"} == {each.resource[SERVICE_NAME] for each in everything}


def last(ended: Ended) -> object:
    """Return what a program printed last."""
    return json.loads(ended.output[-1])


def test_it_joins_all_three_providers_and_adds_nothing_to_them(receiver: OtlpReceiver, route: str) -> None:
    """Same providers, processors and readers as before; the application's own flush carries everything out."""
    ended = run(
        APPLICATION
        + INSTALL_ALL
        + LOOP
        + """
same = [now is then for now, then in zip(globals_now(), installed)]
for provider in installed:
    assert provider.force_flush() is not False
print(json.dumps([
    telemetry.status()["joined"], telemetry.prometheus_url, telemetry.status()["signals"],
    same, inside(*installed) == before, read(), read(),
]), flush=True)
os._exit(0)  # nothing but the application's flush has carried anything
""",
        sending_to(receiver, ROUTE=route),
    )

    all_of_it = {STEPS.name: 40, STEP_DURATION.name: 40}
    assert [
        ["traces", "metrics", "logs"], None, [], [True] * 3, True, [all_of_it, all_of_it], [all_of_it, all_of_it],
    ] == last(ended)  # fmt: skip
    assert [] == ended.errors
    arrived(receiver)


def test_our_flush_carries_the_event_of_a_loss_that_was_not_finite(receiver: OtlpReceiver, route: str) -> None:
    """Although only the metrics' part of the flush would find it."""
    ended = run(
        APPLICATION
        + INSTALL_ALL
        + """
with cx.train("m") as run:
    for loss in (0.5, float("nan")):
        run.step(loss=loss)
    assert telemetry.flush()
    os._exit(0)
""",
        sending_to(receiver, ROUTE=route),
    )

    assert [] == ended.errors
    assert [2] == [
        log.attributes["crucible.training.step"] for log in receiver.logs if log.event_name == NONFINITE.name
    ]


@pytest.mark.parametrize(
    "ending",
    [
        "for provider in installed: provider.force_flush(); provider.shutdown()\nos._exit(0)",
        "assert telemetry.flush()\nos._exit(0)",
        "assert telemetry.shutdown()\nos._exit(0)",
        "",
    ],
    ids=["application shuts down", "flush", "shutdown", "exit"],
)
def test_every_way_to_leave_delivers_everything_once(receiver: OtlpReceiver, route: str, ending: str) -> None:
    """The application's shutdown alone, our flush, our shutdown, or nobody's but the end of the program."""
    ended = run(f"{APPLICATION}\n{INSTALL_ALL}\n{LOOP}\n{ending}", sending_to(receiver, ROUTE=route))

    assert [] == ended.errors
    arrived(receiver)


def test_our_shutdown_leaves_the_applications_providers_at_work(receiver: OtlpReceiver, route: str) -> None:
    """They are not ours to end; a later ``configure()`` joins them again.

    What is merged begins anew then; what the SDK has recorded goes on.
    """
    ended = run(
        APPLICATION
        + INSTALL_ALL
        + """
with cx.train("m") as run:
    run.step(loss=0.5)
assert telemetry.shutdown()
with trace.get_tracer("application").start_as_current_span("later"):
    metrics.get_meter("application").create_counter("application.later").add(1)
again = cx.configure()
assert again is not telemetry
with cx.train("m") as run:
    run.step(loss=0.5)
    run.step(loss=0.5)
print(json.dumps([again.status()["joined"], read()[0]]))
""",
        sending_to(receiver, ROUTE=route),
    )

    steps = 2 if route == "readers" else 3
    assert [["traces", "metrics", "logs"], {STEPS.name: steps, STEP_DURATION.name: steps}] == last(ended)
    assert [] == ended.errors
    assert 3 == receiver.total(STEPS.name)
    assert 1 == receiver.total("application.later")
    assert ["later", "train m", "train m"] == sorted(span.name for span in receiver.spans)


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_one_provider_alone_is_joined_and_the_rest_is_ours(receiver: OtlpReceiver, signal: str, route: str) -> None:
    """Most applications have only a TracerProvider."""
    ended = run(
        f"""{APPLICATION}
install_{signal}()
telemetry = cx.configure(service_name="ours")
with cx.workflow("joined"), cx.train("m") as run:
    for _ in range(600):
        run.step(loss=0.5)
print(json.dumps([telemetry.status()["joined"], telemetry.prometheus_url is None]))
""",
        sending_to(receiver, ROUTE=route),
    )

    assert [[signal], signal == "metrics"] == last(ended)
    assert [] == ended.errors
    services = {
        "traces": {span.resource[SERVICE_NAME] for span in receiver.spans},
        "metrics": {point.resource[SERVICE_NAME] for point in receiver.points(STEPS.name)},
        "logs": {log.resource[SERVICE_NAME] for log in receiver.logs},
    }
    assert {each: {"application" if each == signal else "ours"} for each in services} == services
    assert 600 == receiver.total(STEPS.name)
    assert ["run_workflow joined", "train m"] == sorted(span.name for span in receiver.spans)
    assert {True} == {log.span_id in {span.span_id for span in receiver.spans} for log in receiver.logs}


def test_eight_threads_are_counted_exactly_by_the_applications_concurrent_readers(
    receiver: OtlpReceiver, route: str
) -> None:
    """Three readers that collect while eight threads step: each ends with exactly what was made."""
    ended = run(
        APPLICATION
        + INSTALL_ALL
        + """
done = threading.Event()
def collect():
    while not done.wait(0.01):
        read()
def work():
    with cx.train("m") as run:
        for _ in range(2_000):
            run.step(loss=0.5)
collector = threading.Thread(target=collect)
collector.start()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
done.set()
collector.join()
assert telemetry.flush(timeout_s=30)
print(json.dumps(read()))
""",
        sending_to(receiver, ROUTE=route),
    )

    made = {STEPS.name: 16_000, STEP_DURATION.name: 16_000}
    assert [made, made] == last(ended)
    assert 16_000 == receiver.total(STEPS.name)
    assert 16_000 == receiver.total(STEP_DURATION.name)


@pytest.mark.parametrize("collected", [False, True], ids=["waiting", "collected"])
def test_a_forked_child_of_an_application_reports_its_own_steps(
    receiver: OtlpReceiver, route: str, collected: bool
) -> None:
    """What waited for the application's collection in the parent, or was in one, is not collected by the child."""
    ended = run(
        APPLICATION
        + INSTALL_ALL
        + f"""
with cx.train("m") as run:
    for _ in range(100):
        run.step(loss=0.5)
    if {collected}:
        read()
    pid = os.fork()
    if pid == 0:
        for _ in range(7):
            run.step(loss=0.25)
        delta.total = dict.fromkeys(OURS, 0)
        print(json.dumps(read()), flush=True)
        os._exit(0)
    assert (pid, 0) == os.waitpid(pid, 0)
print(json.dumps(read()))
""",
        sending_to(receiver, ROUTE=route),
    )

    child, parent = (json.loads(line) for line in ended.output)
    assert [{STEPS.name: 7, STEP_DURATION.name: 7}] * 2 == child
    assert [{STEPS.name: 100, STEP_DURATION.name: 100}] * 2 == parent
