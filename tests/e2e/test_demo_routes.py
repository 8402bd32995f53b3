"""The demo by every route, told by environment variables alone: what it did is what Jaeger and Prometheus show."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from crucible_otel.semconv.names import RUN_ID, SERVICE_NAME
from crucible_otel.semconv.training import STEP_EVENT
from crucible_otel.testing import ReceivedLog, ReceivedSpan
from crucible_otel.testing.records import Records
from tests.e2e.emitted import Series
from tests.e2e.readback import (
    Where,
    by_id,
    exported,
    in_jaeger,
    in_prometheus,
    settled,
    shown,
    shown_series,
    through,
    typed,
    unlike,
)
from tests.e2e.relay import Relay
from tests.e2e.servers import Collector, Jaeger, Prometheus, get
from tests.integration.programs import Program

pytest.importorskip("sklearn", reason="the demo's extra")

EPOCHS = 2
COLLECTED: Final[tuple[Where, ...]] = ("Collector's page", "Prometheus")
GZIP = b"\x1f\x8b\x08\x00"
"""How gzip begins: its mark, its only method, no flags."""

PROGRAM = """
import pickle, sys
import crucible_otel as cx
from crucible_otel.cli import main
from tests.e2e.emitted import Emitted

cx.configure()
emitted = Emitted()  # the demo's own configure() finds the telemetry of this one
status = main(["demo", "--epochs", {epochs!r}, "--batch-size", "64", "--out", {folder!r}, "--hold", "600"])
emitted.look()
with open({taken!r}, "wb") as file:
    pickle.dump((emitted.spans, emitted.logs, emitted.looks), file)
raise SystemExit(status)
"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A demo, and what became of it.

    Attributes:
        protocol: How it sent.
        compression: How it was told to compress.
        events: The lines of its ``events.jsonl``: what a handler saw, without OpenTelemetry.
        spans: The spans that the SDK got.
        logs: The log records that the SDK got.
        looks: The metrics at the end.
        exported: What the Collector's file exporter wrote.
        found: The spans that Jaeger has.
        scraped: What Prometheus scraped from the demo.
        collected: What Prometheus scraped from the Collector.
        sent: The bytes that went to the Collector.
        accepted: The Collector's own count of spans by the transport that they came by.
    """

    protocol: str
    compression: str
    events: list[dict[str, Any]]
    spans: list[ReceivedSpan]
    logs: list[ReceivedLog]
    looks: list[Series]
    exported: Records
    found: list[ReceivedSpan]
    scraped: Series
    collected: Series
    sent: bytes
    accepted: Counter[str]

    @property
    def steps(self) -> int:
        """How many training steps were made."""
        return len([event for event in self.events if event["event"] == STEP_EVENT.name])


@pytest.fixture(
    scope="module",
    params=[(protocol, compression) for protocol in ("http/protobuf", "grpc") for compression in ("gzip", "none")],
    ids=lambda param: f"{param[0].partition('/')[0]}-{param[1]}",
)
def demo(
    request: pytest.FixtureRequest,
    jaeger_server: Jaeger,
    prometheus_server: Prometheus,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shown]:
    """Run the demo through a Collector, and read it back everywhere."""
    protocol, compression = request.param
    folder = tmp_path_factory.mktemp("demo")
    scraped_at, collected_at = prometheus_server.take_ports(), prometheus_server.take_ports()
    out, taken = folder / "out", folder / "taken"
    program = PROGRAM.format(epochs=str(EPOCHS), folder=str(out), taken=str(taken))
    with (
        Collector([through(jaeger_server, collected_at)], folder / "collector") as collector,
        Relay(collector.otlp_grpc if protocol == "grpc" else collector.otlp_http) as relay,
        Program(program, _environment(protocol, compression, relay.url, scraped_at)) as running,
    ):
        running.until("Ctrl-C ends it")
        ((_, held_s),) = prometheus_server.query("vector(time())")
        up = f'timestamp(up{{instance="127.0.0.1:{scraped_at}"}} == 1) > {held_s}'
        prometheus_server.holds(lambda found: len(found) == 1, up)
        scraped = in_prometheus(prometheus_server, scraped_at, "Prometheus")
        running.interrupt()
        ended = running.end()
        assert (0, []) == (ended.code, ended.ours), ended.errors
        spans, logs, looks = pickle.loads(taken.read_bytes())
        path = collector.folder / "exported.jsonl"
        settled(lambda: tuple(map(len, exported(path)[:2])), (len(spans), len(logs)))
        yield Shown(
            protocol=protocol,
            compression=compression,
            events=[json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()],
            spans=spans,
            logs=logs,
            looks=looks,
            exported=exported(path),
            found=in_jaeger(jaeger_server, spans),
            scraped=scraped,
            collected=settled(
                lambda: in_prometheus(prometheus_server, collected_at, *COLLECTED), shown_series(looks, *COLLECTED)
            ),
            sent=relay.sent,
            accepted=_accepted(collector),
        )


def _environment(protocol: str, compression: str, endpoint: str, port: int) -> dict[str, str]:
    return {
        "OTEL_SERVICE_NAME": f"demo {protocol} {compression}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "CRUCIBLE_OTEL_STEP_EVENT_INTERVAL_S": "0",
    }


def _accepted(collector: Collector) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in get(collector.metrics_url).splitlines():
        if match := re.match(r'otelcol_receiver_accepted_spans\w*{.*transport="(\w+)".*} (\S+)', line):
            found[match[1]] += int(float(match[2]))
    return found


def test_jaeger_has_every_field_of_every_span(demo: Shown) -> None:
    """One trace, whole: ids, parents, nanoseconds, typed attributes, events, links, status, scope and resource."""
    assert [] == unlike(shown(demo.spans, "on the way", "Jaeger"), by_id(demo.found))
    (root,) = [span for span in demo.found if not span.parent_span_id]
    assert "run_workflow digits" == root.name
    assert {root.trace_id} == {span.trace_id for span in demo.found}
    assert EPOCHS == len([span for span in demo.found if span.name == "train_epoch"])
    assert {f"demo {demo.protocol} {demo.compression}"} == {span.resource[SERVICE_NAME] for span in demo.found}
    assert 1 == len({span.resource[RUN_ID] for span in demo.found})


def test_the_file_has_every_field_of_every_log_record(demo: Shown) -> None:
    """One for every step too, each in a span of the trace."""
    assert [] == unlike([typed(log) for log in demo.logs], [typed(log) for log in demo.exported.logs])
    names = Counter(log.event_name for log in demo.exported.logs)
    assert Counter(event["event"] for event in demo.events) == names
    spans = {span.span_id: span.trace_id for span in demo.found}
    assert [] == [log for log in demo.exported.logs if spans.get(log.span_id) != log.trace_id]


def test_prometheus_scrapes_every_series_and_no_other(demo: Shown) -> None:
    """Every counter, gauge, bucket, sum and count, label by label, without a Collector."""
    assert [] == unlike(shown_series(demo.looks, "Prometheus"), demo.scraped)


def test_prometheus_has_every_series_from_the_collector_and_no_other(demo: Shown) -> None:
    """The same by OTLP and the Collector's page."""
    assert [] == unlike(shown_series(demo.looks, *COLLECTED), demo.collected)


@pytest.mark.parametrize("route", ["scraped", "collected"])
def test_the_steps_are_the_steps_made(demo: Shown, route: str) -> None:
    """As many as a handler saw, in the counter and in the histogram."""
    series: Series = getattr(demo, route)
    totals: Counter[str] = Counter()
    for (name, _), value in series.items():
        totals[name] += round(value)
    assert (demo.steps, demo.steps) == (
        totals["crucible_training_steps_total"],
        totals["crucible_training_step_duration_seconds_count"],
    )
    samples = sum(event["measurements"].get("samples", 0) for event in demo.events if event["event"] == STEP_EVENT.name)
    assert samples == totals["crucible_training_samples_total"]


def test_the_protocol_that_the_environment_names_is_the_one_used(demo: Shown) -> None:
    """The Collector counts spans by the transport that they came by."""
    transport = "grpc" if demo.protocol == "grpc" else "http"
    assert Counter({transport: len(demo.spans)}) == demo.accepted


def test_bodies_are_compressed_only_when_the_environment_says_so(demo: Shown) -> None:
    """Seen on the wire itself: names stand there in clear, or gzip does."""
    names = [name.encode() for name in ("run_workflow digits", "crucible.training.step.duration")]
    compressed = demo.compression == "gzip"
    assert [not compressed] * 2 == [name in demo.sent for name in names]
    assert compressed is (GZIP in demo.sent)
