"""The generated reference, and the names that metrics have in Prometheus."""

from __future__ import annotations

import pathlib
import urllib.request

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families as parse_text

from crucible_otel.export.own import OwnMetrics
from crucible_otel.export.prometheus import PrometheusReader
from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.prometheus import TYPES, family_name, label_name, sample_names, unit_suffix
from crucible_otel.semconv.registry import ALIASES, ATTRIBUTES, EVENTS, METRICS, OPERATIONS, SEED_METRICS
from crucible_otel.semconv.render import render, render_prometheus
from tests.export.fake_source import FakeSource

COMMITTED = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "semconv.md"


def test_committed_reference_is_the_rendered_one() -> None:
    """Who changes a table regenerates the page."""
    assert COMMITTED.read_text(encoding="utf-8") == render()


def test_reference_names_everything() -> None:
    """Every span, event, metric, attribute and alias of the tables is on the page, as code."""
    page = render()
    expected = {
        *(operation.span for operation in OPERATIONS.values()),
        *(event.name for event in EVENTS.values() if event.role == "point" and f"### {event.name}" not in page),
        *(name for metric in METRICS.values() for name in (metric.name, sample_names(metric)[0])),
        *ATTRIBUTES,
        *(name for seed in SEED_METRICS.values() for name in (seed.metric.name, sample_names(seed.metric)[0])),
        *(name for alias in ALIASES.values() for name in (alias.name, *alias.targets, *alias.fields)),
    }

    assert [] == sorted(name for name in expected if f"`{name}`" not in page)


def test_reference_tables_are_whole() -> None:
    """Within a table every row has as many cells as the heading."""
    tables = [
        [line.strip("|").replace("\\|", "").split(" | ") for line in block.splitlines() if line.startswith("|")]
        for block in render().split("\n\n")
    ]
    assert [] == [table[0] for table in tables if len({len(row) for row in table}) > 1]


def test_reference_links_lead_somewhere() -> None:
    """Each entry of the contents has its heading."""
    page = render()
    entries = [line.partition("(#")[2].rstrip(")") for line in page.splitlines() if "](#" in line and line[0].isdigit()]
    headings = [line[3:].lower().replace(" ", "-") for line in page.splitlines() if line.startswith("## ")]

    assert headings == entries


def scraped() -> dict[str, tuple[str, set[str], set[str]]]:
    """Serve one series of every metric, and return from a scrape: family -> type, sample names, label names."""
    source = FakeSource()
    reader = PrometheusReader(source, port=0)
    own = OwnMetrics(source, METRICS.values(), [reader], resource=Resource({}))
    for spec in METRICS.values():
        source.add(spec, 1, **dict.fromkeys(spec.attributes, "x"))
    try:
        assert reader.url is not None
        with urllib.request.urlopen(reader.url, timeout=20) as response:
            text = str(response.read(), "utf-8")
    finally:
        own.provider.shutdown()
    return {
        family.name: (
            family.type,
            {sample.name for sample in family.samples},
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in parse_text(text)
    }


def test_prometheus_names_are_what_a_scrape_has() -> None:
    """Family, type, sample names and labels of every metric, as our endpoint serves them over HTTP."""
    expected = {
        family_name(metric): (
            TYPES[metric.kind],
            set(sample_names(metric)),
            set(map(label_name, metric.attributes)),
        )
        for metric in METRICS.values()
    }
    found = scraped()
    found.pop("target_info")

    assert expected == found


def test_prometheus_names_are_those_of_the_official_exporter() -> None:
    """Who scrapes the SDK's own exporter instead of ours finds every metric under the same name."""
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    meter = provider.get_meter("test")
    for metric in METRICS.values():
        if metric.kind == "histogram":
            meter.create_histogram(metric.name, metric.unit).record(1)
        elif metric.kind == "gauge":
            meter.create_gauge(metric.name, metric.unit).set(1)
        else:
            create = meter.create_counter if metric.kind == "counter" else meter.create_up_down_counter
            create(metric.name, metric.unit).add(1)
    found = {family.name for family in registry.collect()} - {"target", "otel_scope"}
    provider.shutdown()

    unlike = {metric.name for metric in METRICS.values() if metric.kind == "gauge" and metric.unit == "1"}
    assert {family_name(metric) for metric in METRICS.values() if metric.name not in unlike} <= found
    assert {family_name(METRICS[name]) for name in unlike} == {
        name if name.endswith("_ratio") else f"{name}_ratio" for name in (each.replace(".", "_") for each in unlike)
    }
    assert len(METRICS) == len(found)


@pytest.mark.parametrize(
    ("kind", "name", "unit", "expected"),
    [
        ("counter", "a.steps", "{step}", ("a_steps_total",)),
        ("counter", "a.total", "", ("a_total",)),
        ("counter", "a.io", "By", ("a_io_bytes_total",)),
        ("updowncounter", "a.active", "{run}", ("a_active",)),
        ("gauge", "a.share", "1", ("a_share_ratio",)),
        ("counter", "a.shares", "1", ("a_shares_total",)),
        ("gauge", "a.speed", "{sample}/s", ("a_speed_per_second",)),
        ("gauge", "a.seconds", "s", ("a_seconds",)),
        ("gauge", "2nd.try", "", ("_2nd_try",)),
        (
            "histogram",
            "a.wait-time",
            "ms",
            tuple(f"a_wait_time_milliseconds_{end}" for end in ("bucket", "sum", "count")),
        ),
    ],
)
def test_names_follow_kind_and_unit(kind: str, name: str, unit: str, expected: tuple[str, ...]) -> None:
    """Unit and type words are added once, annotations vanish, and what Prometheus does not allow becomes ``_``."""
    metric = Metric(name=name, kind=kind, unit=unit, brief="")  # type: ignore[arg-type]

    assert expected == sample_names(metric)


def test_rates_of_units_are_spelled_out() -> None:
    """Both sides of a unit with a slash."""
    assert ["bytes_per_second", "", "percent"] == [unit_suffix(unit) for unit in ("By/s", "{step}", "%")]


def test_prometheus_table_has_a_line_for_each_sample() -> None:
    """Our name, sample, type and labels, in columns."""
    lines = [line.split() for line in render_prometheus().splitlines()]

    assert [(metric.name, name) for metric in METRICS.values() for name in sample_names(metric)] == [
        (line[0], line[1]) for line in lines[1:]
    ]
    assert {4} == {len(line) for line in lines[1:]}
