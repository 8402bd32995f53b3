"""What an unlikely program emitted is what the Collector's file, Jaeger and Prometheus give back, field by field."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import pytest

import crucible_otel as cx
from crucible_otel.semconv.training import STEP_DURATION
from crucible_otel.testing import FakeClock, ReceivedSpan, fresh
from crucible_otel.testing.records import Records
from tests.e2e.emitted import Emitted, Series
from tests.e2e.readback import (
    DIFFERENCES,
    Difference,
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
from tests.e2e.servers import Collector, Jaeger, Prometheus
from tests.e2e.story import MODELS, Ledger, Story

SERVICE = "readback ü"
WAYS: Final[Mapping[str, tuple[Where, ...]]] = {
    "file": ("on the way",),
    "Jaeger": ("on the way", "Jaeger"),
    "scraped": ("Prometheus",),
    "collected": ("Collector's page", "Prometheus"),
}
"""Where what was read went through."""

SCRAPED, COLLECTED = WAYS["scraped"], WAYS["collected"]


@dataclass(frozen=True, kw_only=True)
class Told:
    """A story, and what became of it.

    Attributes:
        ledger: What the program did, by its own account.
        emitted: What the SDK got of it.
        exported: What the Collector's file exporter wrote.
        found: The spans that Jaeger has.
        scraped: What Prometheus scraped from the program.
        collected: What Prometheus scraped from the Collector.
        targets: Labels of ``target_info`` by both routes.
        labels: Names of all labels that a series from the Collector has.
    """

    ledger: Ledger
    emitted: Emitted
    exported: Records
    found: list[ReceivedSpan]
    scraped: Series
    collected: Series
    targets: list[dict[str, str]]
    labels: frozenset[str]


RUNS = [
    pytest.param((1, "http/protobuf", "gzip", "log", 0.0), id="http-gzip"),
    pytest.param((2, "grpc", "none", "both", 1.0), id="grpc"),
    pytest.param((3, "http/protobuf", "none", "both", 0.0), id="http"),
    pytest.param((4, "grpc", "gzip", "log", 1.0), id="grpc-gzip"),
]
"""Seed, protocol, compression, where events go, and the least pause between two events of steps."""


@pytest.fixture(scope="module", params=RUNS)
def told(
    request: pytest.FixtureRequest,
    jaeger_server: Jaeger,
    prometheus_server: Prometheus,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Told]:
    """Tell a story through a Collector, and read it back everywhere."""
    seed, protocol, compression, events, interval_s = request.param
    folder = tmp_path_factory.mktemp("readback")
    scraped_at, collected_at = prometheus_server.take_ports(), prometheus_server.take_ports()
    clock = FakeClock(time_ns=time.time_ns())
    with Collector([through(jaeger_server, collected_at)], folder / "collector") as collector, fresh():
        telemetry = cx.configure(
            service_name=SERVICE,
            resource_attributes={"deployment.environment.name": "tést"},
            endpoint=collector.otlp_grpc if protocol == "grpc" else collector.otlp_http,
            protocol=protocol,
            compression=compression,
            events=events,
            step_event_interval_s=interval_s,
            metrics_exporter=("otlp", "prometheus"),
            prometheus_host="127.0.0.1",
            prometheus_port=scraped_at,
            export_interval_s=1_000_000,
            handle_sigterm=False,
            clock=clock,
        )
        emitted = Emitted()

        def flush() -> None:
            emitted.look()
            assert telemetry.flush(30)

        story = Story(seed, clock, folder, flush)
        story.tell()
        clock.advance(1)
        flush()
        scraped = settled(
            lambda: in_prometheus(prometheus_server, scraped_at, *SCRAPED), shown_series(emitted.looks, *SCRAPED)
        )
        assert telemetry.shutdown(30)
        collected = settled(
            lambda: in_prometheus(prometheus_server, collected_at, *COLLECTED), shown_series(emitted.looks, *COLLECTED)
        )
        path = collector.folder / "exported.jsonl"
        sizes = (len(emitted.spans), len(emitted.logs))
        settled(lambda: tuple(map(len, exported(path)[:2])), sizes)
        yield Told(
            ledger=story.ledger,
            emitted=emitted,
            exported=exported(path),
            found=in_jaeger(jaeger_server, emitted.spans),
            scraped=scraped,
            collected=collected,
            targets=[_target(prometheus_server, port) for port in (scraped_at, collected_at)],
            labels=frozenset(
                label
                for labels, _ in prometheus_server.query(
                    f'{{__name__=~"crucible_.*",instance="127.0.0.1:{collected_at}"}}'
                )
                for label in labels
            ),
        )


def _target(prometheus: Prometheus, port: int) -> dict[str, str]:
    """Return the labels of a target's ``target_info``, also when the target has ended."""
    ((labels, _),) = prometheus.query(f'last_over_time(target_info{{instance="127.0.0.1:{port}"}}[2m])')
    return labels


# -- the program's own account ---------------------------------------------------------------------------------------


def test_what_was_emitted_is_what_the_program_did(told: Told) -> None:
    """Each verb made its span, in its place; nothing else did."""
    spans = {span.span_id: span for span in told.emitted.spans}

    def path(span: ReceivedSpan) -> str:
        parent = spans.get(span.parent_span_id)
        return span.name if parent is None else f"{path(parent)}/{span.name}"

    assert told.ledger.paths == Counter(path(span) for span in spans.values())
    assert len(spans) == len(told.emitted.spans)


@pytest.mark.parametrize("route", ["scraped", "collected"])
def test_prometheus_counts_what_the_program_counted(told: Told, route: str) -> None:
    """Steps, samples, tokens, bytes, results of stages: by the program's own book-keeping, not by telemetry's."""
    found: Series = getattr(told, route)
    assert {key: float(count) for key, count in told.ledger.counts.items()} == {
        key: found.get(key) for key in told.ledger.counts
    }
    name = "crucible_training_step_duration_seconds_bucket"
    for model in MODELS:
        buckets = {
            dict(labels)["le"]: value
            for (metric, labels), value in found.items()
            if metric == name and ("crucible_model_name", model) in labels
        }
        below = [sum(told.ledger.step_buckets(model)[: index + 1]) for index in range(len(STEP_DURATION.buckets) + 1)]
        values = sorted(buckets.items(), key=lambda item: float(item[0]))
        assert (below if told.ledger.step_durations_s[model] else []) == [value for _, value in values]


def test_a_scrape_shows_the_last_value_of_each_gauge_or_none(told: Told) -> None:
    """The last loss, as long as it is a number; a loss that is none takes the healthy one away."""
    gauges = {key: value if value is None else float(value) for key, value in told.ledger.gauges.items()}
    assert gauges == {key: told.scraped.get(key) for key in told.ledger.gauges}


def test_events_are_as_many_as_the_program_made(told: Told) -> None:
    """Log records by the name of the event, in the Collector's file."""
    names = Counter(log.event_name for log in told.exported.logs)
    assert told.ledger.events == {name: names[name] for name in told.ledger.events}


# -- field by field --------------------------------------------------------------------------------------------------


def test_the_file_has_every_field_of_every_span(told: Told) -> None:
    """Ids, parent, kind, nanoseconds, typed attributes, events, links, status, scope and resource."""
    assert [] == unlike(shown(told.emitted.spans, *WAYS["file"]), by_id(told.exported.spans))


def test_jaeger_has_every_field_of_every_span(told: Told) -> None:
    """The same by ``/api/v3``, but for what the table of differences says."""
    assert [] == unlike(shown(told.emitted.spans, *WAYS["Jaeger"]), by_id(told.found))


def test_the_file_has_every_field_of_every_log_record(told: Told) -> None:
    """Body, event name, severity, both times, attributes, ids, flags, scope and resource, in the order emitted."""
    assert [] == unlike([typed(log) for log in told.emitted.logs], [typed(log) for log in told.exported.logs])


def test_prometheus_scrapes_every_series_and_no_other(told: Told) -> None:
    """Every counter, gauge, bucket, sum and count equals the snapshot in the process, label by label."""
    assert [] == unlike(shown_series(told.emitted.looks, *SCRAPED), told.scraped)


def test_prometheus_has_every_series_from_the_collector_and_no_other(told: Told) -> None:
    """The same by OTLP and the Collector's page, where ended gauges stay for a while."""
    assert [] == unlike(shown_series(told.emitted.looks, *COLLECTED), told.collected)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.what[:40])
def test_the_table_of_differences_has_no_row_too_many(told: Told, difference: Difference) -> None:
    """Without any one of its rows, what was read back is not what was emitted."""
    others = [each for each in DIFFERENCES if each is not difference]
    if difference.span is not None:
        assert [] != unlike(shown(told.emitted.spans, *WAYS["Jaeger"], differences=others), by_id(told.found))
    if difference.series is not None:
        assert [] != unlike(shown_series(told.emitted.looks, *COLLECTED, differences=others), told.collected)
    assert difference.labels <= told.labels


def test_target_info_is_the_resource(told: Told) -> None:
    """All attributes of the process by a scrape; by the Collector what does not stand on the series already."""
    resource = {key.replace(".", "_"): str(value) for key, value in told.emitted.spans[0].resource.items()}
    scraped, collected = ({**labels, "instance": "", "job": ""} for labels in told.targets)
    target = {"__name__": "target_info", "instance": "", "job": ""}
    assert {**target, **resource} == scraped
    identity = {"exported_job": resource.pop("service_name"), "exported_instance": resource.pop("service_instance_id")}
    assert {**target, **resource, **identity} == collected
