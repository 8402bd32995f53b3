"""One run by three ways into a real Prometheus: scraped, through a Collector, and by Prometheus's own OTLP receiver."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import yaml  # type: ignore[import-untyped]  # stubs for one test would be a dependency more

from crucible_otel.semconv.model import Metric
from crucible_otel.semconv.prometheus import sample_names
from crucible_otel.semconv.registry import METRICS
from tests.e2e.conftest import StartCollector, shown
from tests.e2e.readback import OF_EXPORTS, settled
from tests.e2e.servers import Jaeger, Labels, Prometheus
from tests.e2e.test_prometheus import check_consistency
from tests.e2e.test_restart import MINIMAL, start_minimal
from tests.integration.programs import ROOT, Program

PAGE = ROOT / "docs" / "reference" / "prometheus-routes.md"
SCRAPING = ROOT / "collector-config" / "compose" / "prometheus.yaml"
ROUTES: Final = ("Scrape", "Collector", "OTLP")

BEGIN = """
import sys, time
import crucible_otel as cx
from opentelemetry import metrics, trace

def say(line):
    print(line, flush=True)
    assert sys.stdin.readline(), "nobody is there any more"
"""

A_PART: Final = 300
LOOP = f"""
{BEGIN}
telemetry = cx.configure()
with cx.train("m") as run:
    for part in ("before", "during", "after"):
        for _ in range({A_PART}):
            run.step(loss=0.5)
            time.sleep(0.002)
        say(part)
"""
"""Steps in three parts; it waits after each, and exports all the while."""


def to_prometheus(prometheus: Prometheus) -> dict[str, str]:
    """Return the environment of a program whose metrics go to Prometheus's own OTLP receiver, and nothing else."""
    return {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{prometheus.otlp_http}/v1/metrics",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }


def test_the_steps_are_the_same_number_by_every_route_with_a_collector_killed_in_between(
    collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus
) -> None:
    """That of the steps made; by each route the counter and the histogram agree at all times, and never shrink."""
    page, process = prometheus.take_ports(), prometheus.take_ports()
    server = start_minimal(collector, jaeger, page)
    interval = {"OTEL_METRIC_EXPORT_INTERVAL": "200"}
    scraped_and_sent = {
        **interval,
        "OTEL_SERVICE_NAME": "three-routes",
        "OTEL_EXPORTER_OTLP_ENDPOINT": server.otlp_http,
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(process),
    }
    sent = {**interval, "OTEL_SERVICE_NAME": "third-route", **to_prometheus(prometheus)}
    at = {
        "Scrape": f'instance="127.0.0.1:{process}"',
        "Collector": f'instance="127.0.0.1:{page}"',
        "OTLP": 'job="third-route"',
    }
    with Program(LOOP, scraped_and_sent) as first, Program(LOOP, sent) as second:
        programs = (first, second)
        assert ["before", "before"] == [program.line() for program in programs]
        check_steps(prometheus, at, A_PART)
        server.kill()
        for program in programs:
            program.say()
        assert ["during", "during"] == [program.line() for program in programs]
        check_steps(prometheus, {route: at[route] for route in ("Scrape", "OTLP")}, 2 * A_PART)
        prometheus.holds(lambda found: not found, f"crucible_training_steps_total{{{at['Collector']}}}")
        server.start()
        for program in programs:
            program.say()
        assert ["after", "after"] == [program.line() for program in programs]
        check_steps(prometheus, at, 3 * A_PART)
        for program in programs:
            program.say()
            ended = program.end()
            assert (0, []) == (ended.code, ended.errors)

    check_consistency(prometheus, process)
    check_consistency(prometheus, page)

    def sent_samples(name: str) -> list[tuple[float, float]]:
        return next(iter(prometheus.samples(f"{name}{{{at['OTLP']}}}").values()))

    count = sent_samples("crucible_training_step_duration_seconds_count")
    counter = settled(lambda: sent_samples("crucible_training_steps_total"), count)
    assert counter == count
    assert [] == [pair for pair in pairwise(counter) if pair[0][1] > pair[1][1]]


def check_steps(prometheus: Prometheus, at: Mapping[str, str], made: int) -> None:
    """Check that so many steps are what counter, histogram and its last bucket say by some routes."""
    for selector in at.values():
        prometheus.becomes(made, f"crucible_training_steps_total{{{selector}}}")
        prometheus.becomes(made, f"crucible_training_step_duration_seconds_count{{{selector}}}")
        prometheus.becomes(made, f'crucible_training_step_duration_seconds_bucket{{{selector},le="+Inf"}}')


EVERYTHING = f"""
{BEGIN}
class Steady:
    '''Durations that are the same in every run, at times that Prometheus takes.'''
    at_s = 0.0
    def now(self):
        return self.at_s
    def time_ns(self):
        return time.time_ns()

clock = Steady()
telemetry = cx.configure(clock=clock)

meter = metrics.get_meter("app", "2.0", schema_url="https://example.org/1", attributes={{"team": "a"}})
meter.create_counter("app.requests", unit="{{request}}", description="Requests.").add(3, {{"http.route": "/x"}})
meter.create_up_down_counter("app.open", unit="%").add(3)
meter.create_gauge("app.share", unit="1").set(0.5)
meter.create_counter("app.speed", unit="By/s").add(4)
meter.create_histogram("app.size", unit="KiBy").record(3)

def fails(block):
    try:
        with block:
            raise ValueError("bad input")
    except ValueError:
        pass

with cx.workflow("before", run_id="run_0"), cx.stage("only"):
    clock.at_s += 1
fails(cx.workflow("failed", run_id="run_1"))
with cx.workflow("w", run_id="run_2"), cx.stage("s"):
    fails(cx.stage("failed"))
    cx.dataset.load("d", size=100, size_bytes=1000, duration_s=1.25)
    cx.emit_dataset_batch({{"batch_size": 4, "wait_time": 1000}}, {{"dataset": "d"}})
    with cx.train("done"):
        clock.at_s += 1
    with cx.train("m", total_steps=10) as run:
        for epoch in run.epochs(2):
            for batch, step in run.steps([[1, 2]] * 5):
                clock.at_s += 0.004 * (step.number + 1)
                step.log(loss=0.5, learning_rate=1e-3, gradient_norm=2.0, tokens=100, metrics={{"ppl": 3.5}})
            with run.evaluate("validation") as evaluation:
                clock.at_s += 1
                evaluation.log(loss=0.25)
            epoch.log(loss=0.5, accuracy=0.75)
            run.checkpoint_saved("c", path="c.pt", size_bytes=10_000, duration_s=2)
        run.skip("overflow")
        run.step(loss=0.5, metrics={{"bad": float("inf")}}, step=3)
        assert telemetry.flush(timeout_s=30)
        say(f"{{trace.get_current_span().get_span_context().trace_id:032x}}")
        run.step(loss=float("nan"))
        assert telemetry.flush(timeout_s=30)
        say("nan")
"""
"""A run of all verbs, which waits with everything open, and once more when its loss is no number any more."""

GPUS_ENERGY: Final = "J"
TOLD: Final = (
    "crucible.workflow.",
    "crucible.stage.",
    "crucible.training.",
    "crucible.checkpoint.",
    "crucible.dataset.",
)
"""How the metrics begin that the run has, all of them."""

OF_THE_APPLICATION: Final = (
    Metric(name="app.requests", kind="counter", unit="{request}", brief="", attributes=()),
    Metric(name="app.open", kind="updowncounter", unit="%", brief="", attributes=()),
    Metric(name="app.share", kind="gauge", unit="1", brief="", attributes=()),
    Metric(name="app.speed", kind="counter", unit="By/s", brief="", attributes=()),
    Metric(name="app.size", kind="histogram", unit="KiBy", brief="", attributes=(), buckets=(1.0,)),
)

Series = tuple[str, frozenset[tuple[str, str]]]
"""A name and labels."""


@contextmanager
def scraping_as_documented(folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the Collector's page, its last target, as ``collector-config/`` has it."""
    server = Prometheus(folder)
    path = folder / "prometheus.yml"
    config = json.loads(path.read_text())
    (direct,) = config["scrape_configs"]
    (job,) = (
        each for each in yaml.safe_load(SCRAPING.read_text())["scrape_configs"] if each["job_name"] == "crucible-otel"
    )
    (targets,) = direct["static_configs"]
    config["scrape_configs"].append({**job, "static_configs": [{"targets": [targets["targets"].pop()]}]})
    path.write_text(json.dumps(config))
    with shown(server), server:
        yield server


def page_port(prometheus: Prometheus) -> int:
    """Return the port at which it scrapes a Collector."""
    ((labels, _),) = prometheus.query('up{job="crucible-otel"}')
    return int(labels["instance"].rpartition(":")[2])


class Found:
    """What one route brought into Prometheus.

    Args:
        prometheus: It.
        selector: What tells the route's series from others.
        target: The address that is scraped; empty when nothing is.

    Attributes:
        series: Every series and its value now.
        metadata: Of each metric family what Prometheus knows besides.
    """

    def __init__(self, prometheus: Prometheus, selector: str, target: str) -> None:
        self.target = target
        self.series: list[tuple[Labels, float]] = prometheus.query(f"{{{selector}}}")
        # None at all is answered with an error.
        known = prometheus.api("targets/metadata", match_target=f'{{instance="{target}"}}') if target else []
        self.metadata: dict[str, Mapping[str, str]] = {each["metric"]: each for each in known}

    def labels(self, name: str) -> list[Labels]:
        """Return the labels of a metric's series."""
        return [labels for labels, _ in self.series if labels["__name__"] == name]

    def values(self, label: str) -> set[str]:
        """Return what a label has, of all series."""
        return {labels.get(label, "") for labels, _ in self.series}

    def comparable(self) -> dict[Series, float]:
        """Return the series as every route must have them: without what the page says differs."""
        found: dict[Series, float] = {}
        for labels, value in self.series:
            name = labels["__name__"]
            if name != "up" and not name.startswith(("scrape_", *OF_EXPORTS)):
                kept = {key: text for key, text in labels.items() if not _differs(name, key)}
                if "le" in kept:
                    kept["le"] = str(float(kept["le"]))
                series = name, frozenset(kept.items())
                assert series not in found, series
                found[series] = value
        return found


def _differs(name: str, label: str) -> bool:
    of_process = name == "target_info" and label in (*IDENTITY, "process_pid")
    return label in ("__name__", "job", "instance") or label.startswith("otel_scope_") or of_process


IDENTITY: Final = ("service_namespace", "service_name", "service_instance_id")
NAMESPACE, SERVICE = "lab", "all-verbs"
KINDS: Final = {True: "yes", False: "no"}


def measured(found: Found, route: str) -> dict[str, str]:
    """Return what a route's column of the page must say, as far as it shows in the data."""
    (job,), (instance,) = found.values("job"), found.values("instance")
    (info,) = found.labels("target_info")
    (of_application,) = found.labels("app_share_ratio")
    step = {labels["le"] for labels in found.labels("crucible_training_step_duration_seconds_bucket")}
    about = {labels["instance"] for labels in found.labels("up")}
    known = found.metadata
    own = known.get("crucible_training_step_duration_seconds", {})
    return {
        "label `job`": {
            "training": "the scrape job's name",
            f"{NAMESPACE}/{SERVICE}": "`service.namespace`/`service.name`",
        }[job],
        "label `instance`": {found.target: "the address scraped", route: "`service.instance.id`"}[instance],
        "labels of `target_info` from `service.namespace`, `service.name`, `service.instance.id`": {
            len(IDENTITY): "yes",
            0: "no",
        }[len(info.keys() & set(IDENTITY))],
        "label `le` of the bound 1": " ".join(f"`{bound}`" for bound in step & {"1", "1.0"}),
        "labels `otel_scope_*`, on metrics of the application's own meters": KINDS[
            {"otel_scope_name": "app", "otel_scope_version": "2.0", "otel_scope_team": "a"}.items()
            <= of_application.items()
        ],
        "`up` and `scrape_*` are about": "the process" if about else "the Collector" if found.target else "nothing",
        "help text and type in the metadata": KINDS[
            (own.get("help"), own.get("type")) == ("Duration of training steps, on the host.", "histogram")
        ],
        "help text of a metric without a description": {
            "OpenTelemetry metric app.share": "`OpenTelemetry metric` and its name",
            "": "empty",
            None: "none",
        }[known.get("app_share_ratio", {}).get("help")],
        "unit in the metadata": KINDS[own.get("unit") == "seconds"],
        "type of `target_info` in the metadata": {**known.get("target", {}), **known.get("target_info", {})}.get(
            "type", "none"
        ),
    }


def documented() -> dict[str, dict[str, str]]:
    """Return the page's table: route -> what -> how it is."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("|")
    ]
    head, _, *body = rows
    assert ["What", *ROUTES] == head
    assert [] == [row for row in body if len(row) != len(head)]
    return {route: {row[0]: row[column] for row in body} for column, route in enumerate(ROUTES, start=1)}


ENDS: Final = "a series that ends while the process goes on"
ALL_END: Final = "all series when the process has ended"
GONE: Final = "gone at the next scrape"


def stays(prometheus: Prometheus) -> dict[str, str]:
    """Return how long a series stays by each route, in the page's words, as the servers are configured."""
    spelled = {"5m": "there for five minutes", "10m": "there for ten minutes"}
    expiration = yaml.safe_load(MINIMAL.read_text())["exporters"]["prometheus"]["metric_expiration"]
    flags = prometheus.api("status/flags")
    return {"Collector": spelled[expiration], "OTLP": spelled[flags["query.lookback-delta"]]}


def test_all_series_of_a_run_are_the_same_by_every_route_but_for_what_the_page_says(
    collector: StartCollector, jaeger: Jaeger, tmp_path: Path
) -> None:
    """Names, labels and values of a run of all verbs; what differs is in one table, and the table is right."""
    with scraping_as_documented(tmp_path / "prometheus") as prometheus:
        process, page = prometheus.take_ports(), page_port(prometheus)
        server = start_minimal(collector, jaeger, page)
        common = {"OTEL_SERVICE_NAME": SERVICE, "CRUCIBLE_OTEL_RUN_ID": "job-7", "OTEL_LOGS_EXPORTER": "none"}
        scraped = {
            **common,
            "OTEL_RESOURCE_ATTRIBUTES": f"service.namespace={NAMESPACE},service.instance.id=Collector",
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.otlp_http,
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(process),
        }
        sent = {
            **common,
            **to_prometheus(prometheus),
            "OTEL_RESOURCE_ATTRIBUTES": f"service.namespace={NAMESPACE},service.instance.id=OTLP",
            "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_http,
            "OTEL_TRACES_EXPORTER": "otlp",
        }
        selectors = {
            "Scrape": f'instance="127.0.0.1:{process}"',
            "Collector": 'instance="Collector"',
            "OTLP": 'instance="OTLP"',
        }
        targets = {"Scrape": f"127.0.0.1:{process}", "Collector": f"127.0.0.1:{page}", "OTLP": ""}
        with Program(EVERYTHING, scraped) as first, Program(EVERYTHING, sent) as second:
            ids = dict(zip(ROUTES, (first_id := first.line(), first_id, second.line()), strict=True))
            for route in ROUTES:
                prometheus.becomes(11, f"crucible_training_steps_total{{{selectors[route]}}}")
                assert {ids[route]} == traces_of_exemplars(prometheus, selectors[route])
            found = {route: Found(prometheus, selectors[route], targets[route]) for route in ROUTES}
            columns = {route: measured(found[route], route) for route in ROUTES}
            stay = stays(prometheus)

            for program in (first, second):
                program.say()
                assert "nan" == program.line()
            for route in ROUTES:
                at = selectors[route]
                prometheus.becomes(1, f'crucible_training_nonfinite_total{{{at},crucible_training_signal="loss"}}')
                loss = [value for _, value in prometheus.query(f"crucible_training_loss{{{at}}}")]
                columns[route][ENDS] = {(): GONE, (0.5,): stay.get(route, "there")}[tuple(loss)]

            for program in (first, second):
                program.say()
                ended = program.end()
                assert (0, []) == (ended.code, ended.errors)
            prometheus.becomes(0, f'up{{instance="{targets["Scrape"]}"}}')
            for route in ROUTES:
                left = prometheus.query(f"crucible_training_steps_total{{{selectors[route]}}}")
                columns[route][ALL_END] = stay.get(route, "there") if left else GONE

    series = {route: each.comparable() for route, each in found.items()}
    assert series["Scrape"] == series["Collector"]
    assert series["Scrape"] == series["OTLP"]
    assert documented() == columns

    names = {name for name, _ in series["Scrape"]}
    covered = [metric for metric in METRICS.values() if names & set(sample_names(metric))]
    told = [metric for name, metric in METRICS.items() if name.startswith(TOLD) and metric.unit != GPUS_ENERGY]
    assert [] == [metric.name for metric in told if metric not in covered]
    expected = {name for metric in (*covered, *OF_THE_APPLICATION) for name in sample_names(metric)}
    assert {"target_info", *expected} == names


def traces_of_exemplars(prometheus: Prometheus, selector: str) -> set[str]:
    """Return the ids of the traces that the durations of steps lead to."""
    query = f"crucible_training_step_duration_seconds_bucket{{{selector}}}"
    now_s = time.time()
    found = prometheus.api("query_exemplars", query=query, start=str(now_s - 600), end=str(now_s + 10))
    return {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
