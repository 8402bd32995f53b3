"""Of a program with hot spans only some are kept: what Jaeger has of it is whole."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.e2e.servers import Jaeger, Prometheus, until
from tests.e2e.test_trace_size import Found, spans_of
from tests.integration.programs import Program

ROOTS: Final = 200
"""Traces that begin with a workflow, and as many that begin with a call."""

SOURCE: Final = f"""
import json, sys
import crucible_otel as cx
from opentelemetry import trace

tracer = trace.get_tracer("app")
account = []

def take(name, above, made):
    context = trace.get_current_span().get_span_context()
    ids = f"{{context.trace_id:032x}}", f"{{context.span_id:016x}}", bool(context.trace_flags.sampled)
    made.append([*ids, name, above])
    return ids[1]

def inside(above, made):
    with cx.call("lib", "outer"):
        outer = take("call lib.outer", above, made)
        with tracer.start_as_current_span("full"):
            full = take("full", outer, made)
            with cx.call("lib", "inner"):
                take("call lib.inner", full, made)
            with cx.inference("tiny"):
                take("predict tiny", full, made)
        try:
            with cx.call("lib", "failing"):
                take("call lib.failing", outer, made)
                raise ValueError("bad input")
        except ValueError:
            pass

telemetry = cx.configure()
for number in range({ROOTS}):
    made = []
    with cx.workflow("sampled"):
        workflow = take("run_workflow sampled", "", made)
        inside(workflow, made)
        with cx.call("lib", "last"):
            take("call lib.last", workflow, made)
    account.append(made)
    made = []
    with cx.call("lib", "root"):
        inside(take("call lib.root", "", made), made)
    account.append(made)
assert telemetry.flush(timeout_s=30)
print(len(account), flush=True)
path = sys.stdin.readline().strip()
assert telemetry.shutdown(timeout_s=30)
with open(path, "w") as file:
    json.dump(account, file)
"""
"""Takes down of each trace its spans: ids, whether it is sampled, name, the id of the one around it."""


NOBODY: Final = 16 * "0"
"""The id of the current span where there is none."""


class Taken(NamedTuple):
    """What the program took down inside a block.

    Attributes:
        trace_id: The current trace.
        span_id: The current span.
        sampled: Whether it says that it is sampled.
        name: Name of the block's span.
        parent: The span id that was current around it.
    """

    trace_id: str
    span_id: str
    sampled: bool
    name: str
    parent: str


def tell(environ: dict[str, str], prometheus: Prometheus, folder: Path) -> list[list[Taken]]:
    """Run the program, check that its metrics count all, and return its account, trace by trace."""
    port, path = prometheus.take_ports(), folder / "account.json"
    common = {
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_LOGS_EXPORTER": "none",
    }
    with Program(SOURCE, {**common, **environ}) as program:
        assert str(2 * ROOTS) == program.line()
        at = f'{{instance="127.0.0.1:{port}"}}'
        # Of each workflow outer, inner, failing and last; of each root call itself and the first three.
        prometheus.becomes(8 * ROOTS, f"sum(crucible_calls_total{at})")
        prometheus.becomes(2 * ROOTS, f"sum(crucible_inference_duration_seconds_count{at})")
        program.say(str(path))
        ended = program.end()
        assert (0, []) == (ended.code, ended.errors)
    return [[Taken(*taken) for taken in spans] for spans in json.loads(path.read_text())]


def found_in(jaeger: Jaeger, service: str, count: int) -> list[Found]:
    """Wait until Jaeger has so many spans of a service, and return all it has."""
    return until(
        lambda: spans_of(jaeger.search(service)),
        f"{count} spans are in Jaeger",
        wanted=lambda spans: len(spans) >= count,
    )


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_half_of_the_traces_are_whole_and_of_the_others_there_is_nothing(
    protocol: str, jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """Those whose ids the ratio picks, as OpenTelemetry does, whatever failed in the others; metrics count all."""
    way = protocol.partition("/")[0]
    environ = {
        "OTEL_SERVICE_NAME": f"hot-sampled-{way}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_grpc if way == "grpc" else jaeger.otlp_http,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
    }
    account = tell(environ, prometheus, tmp_path)
    made = {spans[0].trace_id: spans for spans in account}
    assert 2 * ROOTS == len(made)
    kept = {trace_id for trace_id in made if int(trace_id[16:], 16) < 2**63}
    assert 0 < len(kept) < 2 * ROOTS
    for trace_id, spans in made.items():
        assert {(trace_id, trace_id in kept)} == {(span.trace_id, span.sampled) for span in spans}
        if trace_id not in kept:  # a call that is left out has no id of its own: what is around it stays current
            with_ids = {span.span_id for span in spans if span.name == "full" or not span.parent}
            assert with_ids == {span.span_id for span in spans}

    expected = sorted((*span[:2], *span[3:]) for trace_id in kept for span in made[trace_id])
    found = found_in(jaeger, environ["OTEL_SERVICE_NAME"], len(expected))
    assert expected == sorted((span.trace_id, span.span_id, span.name, span.parent) for span in found)


def test_calls_that_the_rate_leaves_out_leave_no_gap(jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path) -> None:
    """What is inside of one belongs to what is around it; all that fail are there; no parent is missing."""
    environ = {
        "OTEL_SERVICE_NAME": "hot-rated",
        "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_http,
        "CRUCIBLE_OTEL_CALL_SAMPLE_RATE": "0.5",
    }
    account = [taken for spans in tell(environ, prometheus, tmp_path) for taken in spans]
    current = [taken for taken in account if taken.span_id not in (taken.parent, NOBODY)]
    kept_late = [taken for taken in account if taken not in current and taken.name == "call lib.failing"]
    assert 0 < len(kept_late) < 2 * ROOTS < len(current) < len(account)

    found = found_in(jaeger, "hot-rated", len(current) + len(kept_late))
    ids = {span.span_id for span in found}
    assert len(ids) == len(found)
    assert ids >= {span.parent for span in found if span.parent}
    assert {(taken.trace_id, taken.span_id) for taken in current} <= {(span.trace_id, span.span_id) for span in found}
    expected = Counter((taken.name, taken.parent.replace(NOBODY, "")) for taken in (*current, *kept_late))
    assert expected == Counter((span.name, span.parent) for span in found)
