"""The Prometheus endpoint, scraped over real sockets."""

from __future__ import annotations

import logging
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from crucible_otel.errors import ConfigurationError
from crucible_otel.export.own import OwnMetrics
from crucible_otel.export.prometheus import PrometheusReader
from crucible_otel.export.readers import MemoryMetricReader
from crucible_otel.otel.snapshot import Exemplar
from crucible_otel.semconv import registry
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.names import OVERFLOW
from crucible_otel.semconv.prometheus import sample_names
from tests.export.collected import values_of
from tests.export.fake_source import ACTIVE, DURATION, LOSS, SPECS, START, STEPS, UTILIZATION, FakeSource

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Endpoint:
    """A pipeline with a Prometheus endpoint."""

    def __init__(self, source: FakeSource, others: tuple[MetricReader, ...], **options: Any) -> None:
        self.source = source
        self.reader = PrometheusReader(source, port=0)
        self.own = OwnMetrics(
            source, SPECS, [self.reader, *others], resource=Resource({"service.name": "test", "a.b": 3}), **options
        )
        self.provider = self.own.provider

    def scrape(self, accept: str = "") -> str:
        """Return what Prometheus gets."""
        assert self.reader.url is not None
        request = urllib.request.Request(self.reader.url, headers={"Accept": accept} if accept else {})
        with urllib.request.urlopen(request, timeout=20) as response:
            return str(response.read(), "utf-8")

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and value of a sample name."""
        return [
            (sample.labels, sample.value)
            for family in parse_text(self.scrape())
            for sample in family.samples
            if sample.name == name
        ]


@contextmanager
def endpoint(*others: MetricReader, source: FakeSource | None = None, **options: Any) -> Iterator[Endpoint]:
    """Serve for the duration of a test."""
    served = Endpoint(source or FakeSource(), others, **options)
    try:
        yield served
    finally:
        served.reader.close()


def fill(source: FakeSource) -> None:
    """Give each kind a value."""
    source.add(STEPS, 3, model="m")
    source.add(ACTIVE, 1)
    source.add(DURATION, 0.5)
    source.add(DURATION, 5.0)
    source.add(LOSS, 0.25)
    source.add(UTILIZATION, 0.5)


def test_a_scrape_shows_our_series_without_scope_labels() -> None:
    """The whole text: names with units and types, HELP for each family, target_info, nothing of prometheus_client."""
    with endpoint() as served:
        fill(served.source)

        assert """\
# HELP target_info Target metadata
# TYPE target_info gauge
target_info{a_b="3",service_name="test"} 1.0
# HELP test_steps_total Steps made.
# TYPE test_steps_total counter
test_steps_total{model="m"} 3.0
# HELP test_active Runs that are active.
# TYPE test_active gauge
test_active 1.0
# HELP test_step_duration_seconds Duration of a step.
# TYPE test_step_duration_seconds histogram
test_step_duration_seconds_bucket{le="0.1"} 0.0
test_step_duration_seconds_bucket{le="1.0"} 1.0
test_step_duration_seconds_bucket{le="10.0"} 2.0
test_step_duration_seconds_bucket{le="+Inf"} 2.0
test_step_duration_seconds_sum 5.5
test_step_duration_seconds_count 2.0
# HELP test_loss Latest loss.
# TYPE test_loss gauge
test_loss 0.25
# HELP test_utilization_ratio Share of the time in use.
# TYPE test_utilization_ratio gauge
test_utilization_ratio 0.5
""" == served.scrape()


def test_openmetrics_is_well_formed_and_carries_exemplars() -> None:
    """What Prometheus asks for first; an exemplar stands at the bucket its value is in."""
    with endpoint() as served:
        fill(served.source)
        served.source.add(DURATION, 0.7, (Exemplar(0.7, START + 1, 0xABC, 0xDEF),))

        found = {
            sample.labels["le"]: sample.exemplar
            for family in parse_openmetrics(served.scrape(OPENMETRICS))
            for sample in family.samples
            if sample.name == "test_step_duration_seconds_bucket"
        }

    assert [None, None, None] == [found[le] for le in ("0.1", "10.0", "+Inf")]
    assert ({"trace_id": f"{0xABC:032x}", "span_id": f"{0xDEF:016x}"}, 0.7) == (
        found["1.0"].labels,
        found["1.0"].value,
    )


def test_the_overflow_series_is_labelled() -> None:
    """As the specification's compatibility page has it."""
    with endpoint() as served:
        served.source.add(STEPS, 7, **{OVERFLOW: True})

        assert [({"otel_metric_overflow": "true"}, 7.0)] == served.samples("test_steps_total")


def test_three_flushes_between_two_scrapes_lose_and_double_nothing() -> None:
    """Only the latest collection is shown, one line a series."""
    source = FakeSource()
    other = MemoryMetricReader(source)
    with endpoint(other, source=source) as served:
        first = served.samples("test_steps_total")
        for _ in range(3):
            served.source.add(STEPS, 1)
            served.provider.force_flush()
        flushed = values_of(other.get_metrics_data(), "test.steps")

        assert ([], [3], [({}, 3.0)], [({}, 3.0)]) == (
            first,
            flushed,
            served.samples("test_steps_total"),
            served.samples("test_steps_total"),
        )


def test_a_flush_does_not_collect() -> None:
    """Data leave when they are scraped; a flush for nobody would only cost."""
    with endpoint() as served:
        served.provider.force_flush()

        assert 0 == served.source.snapshots


def test_a_collection_out_of_turn_is_not_kept() -> None:
    """The exporter's reader would put it into a queue that is shown stale first."""
    with endpoint() as served:
        for _ in range(3):
            served.source.add(STEPS, 1)
            served.reader.collect()

        assert [({}, 3.0)] == served.samples("test_steps_total")


def test_concurrent_scrapes_are_each_whole() -> None:
    """They are serialised: every one shows each series once."""
    with endpoint() as served:
        fill(served.source)
        texts: list[str] = []
        threads = [threading.Thread(target=lambda: texts.append(served.scrape())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 8 == len(texts)
    assert 1 == len(set(texts))


def test_scope_labels_stay_on_other_scopes() -> None:
    """Only ours is known anyway; two libraries' metrics of one name stay apart."""
    with endpoint() as served:
        for version in ("1", "2"):
            meter = served.provider.get_meter("lib", version, "https://schema", {"kind": version})
            meter.create_counter("jobs", description="Jobs.").add(1)

        assert [
            ({"otel_scope_name": "lib", "otel_scope_version": one, "otel_scope_schema_url": "https://schema",
              "otel_scope_kind": one}, 1.0)
            for one in ("1", "2")
        ] == served.samples("jobs_total")  # fmt: skip


def test_every_family_has_help() -> None:
    """A user's instrument without description gets its OpenTelemetry name."""
    with endpoint() as served:
        served.provider.get_meter("lib").create_gauge("user.gauge").set(1)

        assert "# HELP user_gauge OpenTelemetry metric user.gauge\n" in served.scrape()


def test_an_exponential_histogram_becomes_powers_of_two() -> None:
    """The exporter's reader fails as a whole on it; the bounds stay the same whatever its scale."""
    view = View(instrument_name="lib.time", aggregation=ExponentialBucketHistogramAggregation())
    with endpoint(views=[view]) as served:
        fill(served.source)
        histogram = served.provider.get_meter("lib").create_histogram("lib.time", unit="s", description="Time.")
        for value in (0.0, 0.3, 0.5, 0.75, 3.0):
            histogram.record(value)
        first = dict((labels["le"], value) for labels, value in served.samples("lib_time_seconds_bucket"))
        histogram.record(1e9)
        second = dict((labels["le"], value) for labels, value in served.samples("lib_time_seconds_bucket"))

        assert {"0.5": 3.0, "1.0": 4.0, "2.0": 4.0, "4.0": 5.0, "+Inf": 5.0} == first
        assert [3.0, 4.0, 5.0, 6.0] == [second[le] for le in ("0.5", "1.0", "4.0", "+Inf")]
        assert [3.0] == [value for _, value in served.samples("test_steps_total")]
        assert [6.0] == [value for _, value in served.samples("lib_time_seconds_count")]


def test_metrics_of_one_prometheus_name_share_a_family(caplog: pytest.LogCaptureFixture) -> None:
    """``a.b`` and ``a_b`` are one name with one HELP; of unlike types or equal labels the first wins, logged once."""
    with endpoint() as served, caplog.at_level(logging.WARNING):
        meter = served.provider.get_meter("lib")
        meter.create_counter("user.jobs", description="First.").add(1, {"x": "1"})
        meter.create_counter("user_jobs", description="Second.").add(2, {"x": "2"})
        meter.create_counter("user-jobs", description="Third.").add(3, {"x": "2"})
        meter.create_gauge("user.jobs.total").set(9)
        meter.create_counter("user.labels").add(1, {"k.a": "1", "k_a": "2"})

        text = served.scrape()
        served.scrape()

        assert [1.0, 2.0] == [value for _, value in served.samples("user_jobs_total")]
        assert ["1;2"] == [labels["k_a"] for labels, _ in served.samples("user_labels_total")]

    assert 1 == text.count("# HELP user_jobs_total ")
    assert "user_jobs_total 9" not in text
    assert 2 == len(caplog.records)
    assert list(parse_text(text))


def test_a_metric_that_cannot_be_shown_does_not_take_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """Counted and logged once."""
    with endpoint() as served:
        fill(served.source)
        broken = Metric(name="test.broken", kind="histogram", unit="s", brief="Buckets missing.", buckets=(1.0, 2.0))
        served.source.add(broken, 1.5)
        series = served.source._series["test.broken"]
        for key, point in series.items():
            series[key] = point._replace(value=point.value._replace(buckets=(1,)))  # type: ignore[union-attr]

        assert [3.0] == [value for _, value in served.samples("test_steps_total")]
        assert "test_broken" not in served.scrape()
        assert 2 == served.reader.faults.count
    assert 1 == len(caplog.records)


def test_names_are_those_of_the_exporter_but_for_ratios() -> None:
    """One table of names and units, through both readers."""
    units = ["", "1", "s", "ms", "By", "By/s", "{sample}/s", "W", "Cel", "%", "{x}", "m/s", "kg"]
    registry = CollectorRegistry()
    stock = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    with endpoint() as served:
        for provider in (stock, served.provider):
            meter = provider.get_meter("lib")
            for index, unit in enumerate(units):
                meter.create_counter(f"c{index}.a__b", unit, "d").add(1)
                meter.create_up_down_counter(f"u{index}", unit, "d").add(1)
                meter.create_histogram(f"h{index}", unit, "d").record(1)
                if unit != "1":
                    meter.create_gauge(f"g{index}", unit, "d").set(1)
        ours = {sample.name for family in parse_text(served.scrape()) for sample in family.samples}

    theirs = {sample.name for family in parse_text(generate_latest(registry).decode()) for sample in family.samples}
    assert theirs == ours


def test_a_scrape_has_the_names_that_are_documented() -> None:
    """The table of names in the reference and the endpoint agree on every metric of the conventions."""
    with endpoint() as served:
        for spec in registry.METRICS.values():
            served.source.add(spec, 1)
        scraped = {sample.name for family in parse_text(served.scrape()) for sample in family.samples}

    assert {"target_info", *(name for spec in registry.METRICS.values() for name in sample_names(spec))} == scraped


def test_a_taken_port_leads_to_the_next_free_one(caplog: pytest.LogCaptureFixture) -> None:
    """With one clear line in the log."""
    with socket.create_server(("127.0.0.1", 0)) as other, caplog.at_level(logging.WARNING):
        taken = other.getsockname()[1]
        reader = PrometheusReader(FakeSource(), port=taken)
        try:
            url = reader.url
            assert url is not None
            port = int(url.rsplit(":", 1)[1].split("/")[0])
            assert taken < port < taken + 100
            assert [f"Prometheus port {taken} on localhost is taken; serving at {url}"] == caplog.messages
        finally:
            reader.close()


def test_the_local_rank_is_added_to_the_port(caplog: pytest.LogCaptureFixture) -> None:
    """So that the ranks of a host are where they are expected, whoever starts first."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    reader = PrometheusReader(FakeSource(), port=free - 3, local_rank=3)
    reader.close()
    again = PrometheusReader(FakeSource(), port=free - 3, local_rank=3)
    url = again.url
    again.close()

    assert (f"http://localhost:{free}/metrics", None, []) == (url, again.url, caplog.messages)


def test_the_last_ports_are_said_as_they_are(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """No port beyond the last one there is."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr("crucible_otel.export.scrape_server._LAST_PORT", taken)
        PrometheusReader(FakeSource(), port=taken).close()
    assert [f"Prometheus ports {taken} to {taken} on localhost are all taken; metrics cannot be scraped"] == (
        caplog.messages
    )


def test_no_free_port_loses_the_endpoint_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A training run does not fail for it."""
    monkeypatch.setattr("crucible_otel.export.scrape_server._PORTS_TRIED", 1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        reader = PrometheusReader(FakeSource(), port=other.getsockname()[1])
        reader.start()
        reader.close()

    assert reader.url is None
    assert 1 == len(caplog.records)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"host": "no such host"}, "prometheus_host"),
        ({"host": "x" * 300}, "prometheus_host"),
        ({"host": "192.0.2.1"}, "prometheus_host"),
        ({"port": -1}, "prometheus_port"),
        ({"port": 65_536}, "prometheus_port"),
        ({"port": 65_535, "local_rank": 1}, "prometheus_port"),
    ],
)
def test_a_bad_address_is_refused_at_set_up(options: dict[str, Any], field: str) -> None:
    """The error names the setting, the value and what is accepted."""
    with pytest.raises(ConfigurationError) as caught:
        PrometheusReader(FakeSource(), **{"port": 0, **options})

    assert field == caught.value.field


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0"])
def test_hosts_are_names_or_addresses(host: str) -> None:
    """A loopback scraper finds each of them, and gets the same from any path."""
    source = FakeSource()
    reader = PrometheusReader(source, host=host, port=0)
    own = OwnMetrics(source, SPECS, [reader], resource=Resource({}))
    source.add(STEPS, 1)
    assert reader.url is not None
    port = reader.url.rsplit(":", 1)[1].split("/")[0]
    try:
        for url in (reader.url, f"http://127.0.0.1:{port}/"):
            with urllib.request.urlopen(url, timeout=20) as response:
                assert "test_steps_total 1.0" in str(response.read())
    finally:
        own.provider.shutdown()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_ipv6_address_is_served() -> None:
    """Its URL has the brackets."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback on this machine")
    reader = PrometheusReader(FakeSource(), host="::1", port=0)
    try:
        assert reader.url is not None
        assert reader.url.startswith("http://[::1]:")
    finally:
        reader.close()


def test_a_failing_collection_is_a_503_and_prints_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Prometheus then knows that the target is down, instead of seeing its series end."""
    with endpoint() as served:
        fill(served.source)

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise KeyError("broken")

        real = served.reader._collect
        served.reader._collect = fail  # type: ignore[assignment]
        with pytest.raises(urllib.error.HTTPError) as caught:
            served.scrape()
        caught.value.close()
        served.reader._collect = real

        assert 503 == caught.value.code
        assert [3.0] == [value for _, value in served.samples("test_steps_total")]
    assert ("", "") == tuple(capfd.readouterr())


def test_closing_gives_the_port_back_and_may_be_repeated() -> None:
    """A provider that is shut down serves no more."""
    with endpoint() as served:
        url = served.reader.url
        assert url is not None
        served.provider.shutdown()
        served.reader.close()
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        socket.create_server(("127.0.0.1", port)).close()

        assert served.reader.url is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_no_part_in_the_endpoint() -> None:
    """Its copy of the socket is closed: the port is free as soon as the parent gives it back."""
    with endpoint() as served:
        served.source.add(STEPS, 1)
        url = served.reader.url
        assert url is not None
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(ready[1], repr(served.reader.url).encode())
                os.read(go[0], 1)
            finally:
                os._exit(0)
        try:
            of_child = os.read(ready[0], 100)
            before = served.samples("test_steps_total")
            served.reader.close()
            port = int(url.rsplit(":", 1)[1].split("/")[0])
            socket.create_server(("127.0.0.1", port)).close()
        finally:
            os.write(go[1], b"x")
            os.waitpid(child, 0)
            for end in (*ready, *go):
                os.close(end)

    assert (b"None", [({}, 1.0)]) == (of_child, before)
