"""The agent and two gateways of ``collector-config/``, as they stand there, between processes and a real Jaeger."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from crucible_otel.semconv.training import STEPS
from tests.e2e.conftest import StartCollector
from tests.e2e.servers import Collector, Exported, Jaeger, Prometheus, free_ports, get, until
from tests.integration.programs import ROOT, Ended, Program, run

AGENT = ROOT / "collector-config" / "agent.yaml"
GATEWAY = ROOT / "collector-config" / "gateway.yaml"
DECISION_S = 2
SLOW_S = 30
"""What the gateway finds slow when nothing else is said."""

SEEN = {
    "exporters": {"file/seen": {"path": "seen.jsonl", "flush_interval": "100ms"}},
    "service": {
        "pipelines": {
            f"{signal}/seen": {"receivers": ["otlp"], "exporters": ["file/seen"]}
            for signal in ("traces", "metrics", "logs")
        }
    },
}
"""Laid over a configuration: what it receives is in a file too."""

START = f"""
import json, sys, time
import crucible_otel as cx
from crucible_otel.testing import FakeClock
from opentelemetry import trace

SLOW_S = {SLOW_S}
clock = FakeClock(time_ns=time.time_ns() - 3600 * 10**9)
telemetry = cx.configure(clock=clock)
made = {{}}

def note(kind):
    made.setdefault(kind, []).append(f"{{trace.get_current_span().get_span_context().trace_id:032x}}")

def leave():
    flushed = telemetry.flush(timeout_s=30)
    print(json.dumps([flushed, made, telemetry.status()["signals"]]))
"""
"""How a program begins, on a clock that it moves itself."""


def start_agent(collector: StartCollector, folder: Path, *gateways: Collector) -> Collector:
    """Start the agent, its queues in a folder, in front of these gateways."""
    endpoints = [gateway.otlp_grpc.removeprefix("http://") for gateway in gateways]
    (own,) = free_ports(1)
    return collector(
        AGENT,
        SEEN,
        environ={
            "GATEWAY_ENDPOINTS": f"[{', '.join(endpoints)}]",
            "QUEUE_DIRECTORY": str(folder / "agent-queue"),
            "MEMORY_LIMIT_MIB": "400",
            "SELF_METRICS_PORT": str(own),
        },
    )


def start_gateway(
    collector: StartCollector, folder: Path, name: str, jaeger: Jaeger, page_port: int, **environ: str
) -> Collector:
    """Start a gateway that sends to Jaeger and serves its Prometheus page at a port.

    Args:
        collector: Starts Collectors.
        folder: For its queue and log file.
        name: Tells it from other gateways.
        jaeger: Where traces go.
        page_port: Where its metrics are scraped.
        environ: Variables of the configuration besides addresses and folders.
    """
    grpc, http, own, health = free_ports(4)
    return collector(
        GATEWAY,
        SEEN,
        environ={
            "GATEWAY_NAME": name,
            "OTLP_GRPC_LISTEN": f"127.0.0.1:{grpc}",
            "OTLP_HTTP_LISTEN": f"127.0.0.1:{http}",
            "HEALTH_LISTEN": f"127.0.0.1:{health}",
            "SELF_METRICS_PORT": str(own),
            "PROMETHEUS_LISTEN": f"127.0.0.1:{page_port}",
            "TRACES_OTLP_ENDPOINT": jaeger.otlp_grpc.removeprefix("http://"),
            "QUEUE_DIRECTORY": str(folder / f"{name}-queue"),
            "LOG_FILE": str(folder / f"{name}-logs.jsonl"),
            "MEMORY_LIMIT_MIB": "400",
            "DECISION_WAIT": f"{DECISION_S}s",
            "SPAN_METRICS_INTERVAL": "500ms",
            **environ,
        },
    )


def told(ended: Ended) -> dict[str, list[str]]:
    """Return kind -> trace ids of a program that left as it should: quietly, with everything delivered."""
    assert (0, []) == (ended.code, ended.errors)
    flushed, made, signals = json.loads(ended.output[-1])
    assert flushed
    assert [] == [counts for counts in signals if counts["accepted"] != counts["delivered"]]
    return dict(made)


def decided(*gateways: Collector) -> Counter[str]:
    """Return how many traces gateways have decided on: ``true`` for those that are sampled, ``false``."""
    name = "otelcol_processor_tail_sampling_global_count_traces_sampled"
    counts: Counter[str] = Counter(true=0, false=0)
    for gateway in gateways:
        page = get(gateway.metrics_url)
        for sampled, count in re.findall(rf'^{name}\w*{{.*\bsampled="(\w+)".*}} (\S+)$', page, re.MULTILINE):
            counts[sampled] += int(float(count))
    return counts


def wait_for_decisions(count: int, *gateways: Collector) -> Counter[str]:
    """Wait until gateways have decided on so many traces altogether, and return how."""
    return until(
        lambda: decided(*gateways), f"{count} traces are decided on", wanted=lambda found: count <= sum(found.values())
    )


TRACES = f"""
{START}
def work():
    with cx.workflow("finetune"):
        note("workflow")
        with cx.stage("load"):
            cx.dataset.load("wikitext", size=100, duration_s=0.5)
        telemetry.flush()  # one trace, several requests
        with cx.stage("train"), cx.train("m") as run:
            for epoch in run.epochs(2):
                for batch, step in run.steps([[1, 2]] * 5):
                    clock.advance(0.01)
                    step.log(loss=0.5)
                with cx.span("myapp.callback"):
                    clock.advance(0.01)
            with run.evaluate("validation") as evaluation:
                evaluation.log(loss=0.4)
            with run.checkpoint("last"):
                pass

def request(kind):
    with cx.span("myapp.request"):
        note(kind)
        clock.advance(SLOW_S if kind == "slow" else 0.01)
        with cx.span("myapp.inside"):
            clock.advance(0.01)
        try:
            with cx.span("myapp.inside"):
                if kind == "failed":
                    raise ValueError("bad input")
        except ValueError:
            pass

for _ in range(8):
    work()
    for kind in ("failed", "slow", "plain", "plain"):
        request(kind)
leave()
"""
SPANS = {"workflow": 11, "failed": 3, "slow": 3, "plain": 3}
"""What each trace of a kind has."""
STEPS_MADE = 8 * 2 * 5


def test_two_gateways_keep_every_trace_of_interest_whole(
    collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """All spans and log records of a trace meet in one gateway, all metrics of a process in one; nothing is doubled."""
    ports = [prometheus.take_ports() for _ in range(2)]
    gateways = [
        start_gateway(
            collector, tmp_path, f"gateway-{number}", jaeger, port, DECISION_WAIT="4s", SAMPLING_PERCENTAGE="0"
        )
        for number, port in enumerate(ports)
    ]
    agent = start_agent(collector, tmp_path, *gateways)
    environ = {"OTEL_SERVICE_NAME": "cluster", "OTEL_METRICS_EXPORTER": "otlp", "WORLD_SIZE": "2"}
    environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = agent.otlp_http
    ranks = [{"RANK": f"{rank}", "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id=rank-{rank}"} for rank in range(2)]
    with Program(TRACES, {**environ, **ranks[0]}) as first, Program(TRACES, {**environ, **ranks[1]}) as second:
        made = [told(first.end()), told(second.end())]
    ids = {kind: [trace_id for of_rank in made for trace_id in of_rank[kind]] for kind in SPANS}
    every = [trace_id for of_kind in ids.values() for trace_id in of_kind]

    spans = whole(gateways, {trace_id: SPANS[kind] for kind, of_kind in ids.items() for trace_id in of_kind})
    of_traces = places([(trace_id, number) for number, each in enumerate(spans) for trace_id in each])
    assert sorted(every) == sorted(of_traces)
    assert {(0,), (1,)} == set(of_traces.values())  # of 80 traces each gateway has some, and none is in both
    of_logs = places([(log.trace_id, number) for number, seen in enumerate(seen_by(gateways)) for log in seen.logs])
    assert of_logs == {trace_id: of_traces[trace_id] for trace_id in of_logs}
    assert sorted(of_logs) == sorted(ids["workflow"])

    wait_for_decisions(len(every), *gateways)
    for kind in ("workflow", "failed", "slow"):
        for trace_id in ids[kind]:
            (place,) = of_traces[trace_id]
            found = jaeger.trace(trace_id, spans=SPANS[kind])
            assert sorted(spans[place][trace_id]) == sorted(span.span_id for span in found)
    kept = [trace_id for kind in ("workflow", "failed", "slow") for trace_id in ids[kind]]
    assert sorted(kept) == sorted(trace["traceID"] for trace in jaeger.search("cluster", count=len(kept)))

    prometheus.becomes(2 * STEPS_MADE, f"sum(crucible_training_steps_total{at(ports)})")
    of_processes = places(
        [
            (point.resource["service.instance.id"], number)
            for number, seen in enumerate(seen_by(gateways))
            for point in seen.points(STEPS.name)
        ]
    )
    assert {"rank-0": 1, "rank-1": 1} == {instance: len(where) for instance, where in of_processes.items()}
    prometheus.becomes(
        sum(SPANS[kind] * len(of_kind) for kind, of_kind in ids.items()),
        f"sum(traces_span_metrics_calls_total{at(ports)})",
    )


def at(ports: Sequence[int]) -> str:
    """Return the selector of what is scraped at some ports."""
    return f'{{instance=~"127.0.0.1:({"|".join(map(str, ports))})"}}'


def seen_by(gateways: Sequence[Collector]) -> list[Exported]:
    """Return what each gateway received."""
    return [gateway.exported("seen.jsonl") for gateway in gateways]


def whole(gateways: Sequence[Collector], sizes: Mapping[str, int]) -> list[dict[str, list[str]]]:
    """Wait until gateways have received traces of these sizes; return for each gateway trace id -> span ids."""

    def received() -> list[dict[str, list[str]]]:
        by_gateway = []
        for seen in seen_by(gateways):
            traces = defaultdict(list)
            for span in seen.spans:
                traces[span.trace_id].append(span.span_id)
            by_gateway.append(dict(traces))
        return by_gateway

    def complete(by_gateway: list[dict[str, list[str]]]) -> bool:
        return sum(sizes.values()) <= sum(len(spans) for traces in by_gateway for spans in traces.values())

    by_gateway = until(received, "the gateways have all spans", wanted=complete)
    found = Counter[str]()
    for traces in by_gateway:
        found.update({trace_id: len(spans) for trace_id, spans in traces.items()})
    assert dict(sizes) == dict(found)
    return by_gateway


def places(pairs: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    """Return key -> the different numbers that it comes with."""
    found: dict[str, set[int]] = defaultdict(set)
    for key, number in pairs:
        found[key].add(number)
    return {key: tuple(sorted(numbers)) for key, numbers in found.items()}


def test_what_the_agent_has_taken_survives_its_crash_while_the_gateways_are_away(
    collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """The process ends content; then agent and gateways come back, and every workflow is in Jaeger."""
    gateways = [
        start_gateway(collector, tmp_path, f"gateway-{number}", jaeger, prometheus.take_ports()) for number in range(2)
    ]
    agent = start_agent(collector, tmp_path, *gateways)
    for gateway in gateways:
        gateway.kill()
    made = told(
        run(
            TRACES,
            {
                "OTEL_SERVICE_NAME": "crashes",
                "OTEL_EXPORTER_OTLP_ENDPOINT": agent.otlp_http,
                "OTEL_METRICS_EXPORTER": "otlp",
            },
        )
    )

    agent.kill()
    for server in (*gateways, agent):
        server.start()

    kept = sorted(trace_id for kind in ("workflow", "failed", "slow") for trace_id in made[kind])
    for kind in ("workflow", "failed", "slow"):
        for trace_id in made[kind]:
            # Delivery is at least once: what the agent had under way comes again.
            assert SPANS[kind] == len({span.span_id for span in jaeger.trace(trace_id, spans=SPANS[kind])})
    assert set(kept) <= {trace["traceID"] for trace in jaeger.search("crashes", count=len(kept))}
    until(lambda: seen_by(gateways), "the steps", wanted=lambda seen: STEPS_MADE == total_steps(seen))


def total_steps(seen: Iterable[Exported]) -> float:
    """Return the steps that gateways have heard of."""
    return sum(each.total(STEPS.name) for each in seen)


LONG = f"""
{START}
import sys
with cx.workflow("long"):
    note("workflow")
    with cx.stage("waits"):
        with cx.span("myapp.early"):
            clock.advance(0.01)
        assert telemetry.flush(timeout_s=30)
        print("waiting", flush=True)
        sys.stdin.readline()
        try:
            with cx.span("myapp.late"):
                raise ValueError("bad input")
        except ValueError:
            pass
leave()
"""


def test_what_is_always_kept_is_kept_when_it_ends_after_the_decision(
    collector: StartCollector, jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """A workflow of hours: its trace was decided against long before it ended, and its own spans are there still."""
    gateway = start_gateway(
        collector, tmp_path, "gateway-0", jaeger, prometheus.take_ports(), DECISION_WAIT="1s", SAMPLING_PERCENTAGE="0"
    )
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": gateway.otlp_http, "OTEL_METRICS_EXPORTER": "none"}
    with Program(LONG, {"OTEL_SERVICE_NAME": "long", **environ}) as program:
        assert "waiting" == program.line()
        assert {"true": 0, "false": 1} == wait_for_decisions(1, gateway)
        program.say()
        (trace_id,) = told(program.end())["workflow"]

    found = jaeger.trace(trace_id, spans=3)
    assert ["myapp.late", "run_stage waits", "run_workflow long"] == sorted(span.name for span in found)
