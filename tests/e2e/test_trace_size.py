"""100,000 calls and steps of one run stay readable in Jaeger: traces of bounded size, linked to where they belong."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from crucible_otel.semconv.names import SEGMENT_NUMBER
from crucible_otel.semconv.segment import SEGMENT_SPAN
from tests.e2e.servers import Jaeger, Prometheus, until
from tests.integration.programs import Program

LIMIT: Final = 5_000
"""The default of ``trace_span_limit``."""

EPOCHS, THREADS, FLAT = 3, 4, 6
STEPS, CALLS_A_THREAD = 3_000, 2_500
"""Steps of an epoch, each with some calls one after the other and three in one another."""

CALLS: Final = EPOCHS * STEPS * (FLAT + 2) + THREADS * CALLS_A_THREAD
INFERENCES: Final = EPOCHS * STEPS
HOT: Final = CALLS + INFERENCES + EPOCHS * STEPS
FULL: Final = 2 + EPOCHS
"""Workflow, run and epochs."""

SOURCE: Final = f"""
import contextvars, json, sys, threading
import crucible_otel as cx
from opentelemetry import trace

def here():
    return f"{{trace.get_current_span().get_span_context().span_id:016x}}"

def take(above):
    account[here()] = above
    return here()

def work():
    above = here()
    for _ in range({CALLS_A_THREAD}):
        with cx.call("lib", "threaded"):
            take(above)

telemetry = cx.configure()
account, steps = {{}}, []
with cx.workflow("long"):
    workflow = take("")
    threads = [threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range({THREADS})]
    for thread in threads:
        thread.start()
    with cx.train("m") as run:
        train = take(workflow)
        for epoch in run.epochs({EPOCHS}):
            above = take(train)
            for index, (_, step) in enumerate(run.steps([[1, 2]] * {STEPS})):
                for _ in range({FLAT}):
                    with cx.call("lib", "flat"):
                        take(above)
                with cx.call("lib", "outer"):
                    outer = take(above)
                    with cx.call("lib", "inner"):
                        inner = take(outer)
                        with cx.inference("tiny"):
                            take(inner)
                if index == {STEPS} // 2:
                    assert telemetry.flush(timeout_s=60)
                step.log(loss=0.5)
                steps.append((step.number, above))
    for thread in threads:
        thread.join()
assert telemetry.flush(timeout_s=60)
print(len(account) + len(steps), flush=True)
path = sys.stdin.readline().strip()
assert telemetry.shutdown(timeout_s=60)
with open(path, "w") as file:
    json.dump({{"spans": account, "steps": steps, "counts": telemetry.status()["signals"]}}, file)
"""


class Found(NamedTuple):
    """A span as Jaeger's search has it.

    Attributes:
        trace_id: Its trace.
        span_id: Its id.
        name: Its name.
        parent: The span id of its parent, empty for a root.
        links: The traces and spans that it is linked to.
        tags: Its attributes.
    """

    trace_id: str
    span_id: str
    name: str
    parent: str
    links: list[tuple[str, str]]
    tags: dict[str, Any]


def spans_of(traces: Iterable[dict[str, Any]]) -> list[Found]:
    """Return the spans of traces in Jaeger's own JSON, which has links and the parent as references."""
    found = []
    for trace in traces:
        for span in trace["spans"]:
            by_kind = defaultdict(list)
            for reference in span["references"]:
                by_kind[reference["refType"]].append((reference["traceID"], reference["spanID"]))
            parents = [parent for trace_id, parent in by_kind["CHILD_OF"] if trace_id == span["traceID"]]
            tags = {tag["key"]: tag["value"] for tag in span["tags"]}
            parent = parents[0] if parents else ""
            found.append(
                Found(span["traceID"], span["spanID"], span["operationName"], parent, by_kind["FOLLOWS_FROM"], tags)
            )
    return found


@pytest.mark.timeout(300)
def test_a_long_run_is_many_traces_each_linked_to_where_it_belongs(
    jaeger: Jaeger, prometheus: Prometheus, tmp_path: Path
) -> None:
    """None beyond the limit, every segment leads to the span its children were made in, and nothing is missing."""
    service, port, path = "trace-size", prometheus.take_ports(), tmp_path / "account.json"
    environ = {
        "OTEL_SERVICE_NAME": service,
        "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_http,
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_LOGS_EXPORTER": "none",
        "CRUCIBLE_OTEL_STEP_SAMPLE_RATE": "1",
    }
    with Program(SOURCE, environ) as program:
        assert str(HOT + FULL) == program.line()
        at = f'{{instance="127.0.0.1:{port}"}}'
        prometheus.becomes(CALLS, f"sum(crucible_calls_total{at})")
        prometheus.becomes(CALLS, f"sum(crucible_call_duration_seconds_count{at})")
        prometheus.becomes(INFERENCES, f"sum(crucible_inference_duration_seconds_count{at})")
        prometheus.becomes(EPOCHS * STEPS, f"sum(crucible_training_steps_total{at})")
        program.say(str(path))
        ended = program.end()
        assert (0, []) == (ended.code, ended.errors)
    account = json.loads(path.read_text())

    def segments(spans: list[Found]) -> list[Found]:
        return [span for span in spans if span.name == SEGMENT_SPAN]

    def whole(spans: list[Found]) -> bool:
        return len(spans) - len(segments(spans)) >= HOT + FULL

    found = until(lambda: spans_of(jaeger.search(service)), "all spans are in Jaeger", wanted=whole)
    by_id = {span.span_id: span for span in found}
    assert len(found) == len(by_id)
    roots = {span.span_id: span for span in segments(found)}
    assert HOT + FULL == len(found) - len(roots)

    # Size: a segment's root counts as a hot span, as those of structure do not.
    full_ones = {
        span_id for span_id, span in by_id.items() if span.name.startswith(("run_workflow", "train m", "train_epoch"))
    }
    assert FULL == len(full_ones)
    sizes = Counter(span.trace_id for span in found if span.span_id not in full_ones)
    assert LIMIT == max(sizes.values())
    (main,) = {by_id[span_id].trace_id for span_id in full_ones}
    assert len(sizes) == len(roots) + 1

    # Roots: those of segments, and one more.
    assert {*roots, *(span_id for span_id in full_ones if by_id[span_id].name == "run_workflow long")} == {
        span.span_id for span in found if not span.parent
    }
    assert [] == [span for span in found if span.parent and by_id[span.parent].trace_id != span.trace_id]

    # Links: each leads to a span of another trace, and along them everything comes back to the first one.
    assert {1} == {len(root.links) for root in roots.values()}
    owners = {span_id: by_id[root.links[0][1]] for span_id, root in roots.items()}
    assert [] == [root for root in roots.values() if root.links[0][0] != owners[root.span_id].trace_id]
    leads = {root.trace_id: owners[span_id].trace_id for span_id, root in roots.items()}
    for trace_id in leads:
        seen = [trace_id]
        while seen[-1] != main:
            assert leads[seen[-1]] not in seen
            seen.append(leads[seen[-1]])

    # Numbers: of each owner's segments, without a gap.
    numbers = defaultdict(list)
    for span_id, root in roots.items():
        numbers[owners[span_id].span_id].append(root.tags[SEGMENT_NUMBER])
    assert {owner: [*range(2, 2 + len(given))] for owner, given in numbers.items()} == {
        owner: sorted(given) for owner, given in numbers.items()
    }

    # And every span is in the one that the program made it in.
    def belongs_to(span: Found) -> str:
        return owners[span.parent].span_id if span.parent in owners else span.parent

    steps = {span.tags["crucible.training.step"]: span for span in found if span.name == "train_step"}
    others = [span for span in found if span.name not in ("train_step", SEGMENT_SPAN)]
    assert account["spans"] == {span.span_id: belongs_to(span) for span in others}
    assert dict(account["steps"]) == {number: belongs_to(step) for number, step in steps.items()}
    (counts,) = [each for each in account["counts"] if each["signal"] == "traces"]
    assert len(found) == counts["accepted"] == counts["delivered"]
