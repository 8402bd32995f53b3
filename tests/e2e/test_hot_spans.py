"""Hot and full spans of threads, tasks, abandoned generators and forked children are in Jaeger as they were made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from crucible_otel.semconv.names import PROCESS_PID, RESULT
from crucible_otel.testing import ReceivedSpan
from crucible_otel.testing.records import ReceivedEvent, ReceivedLink, ReceivedScope
from tests.e2e.emitted import HAS_IS_REMOTE, IS_REMOTE
from tests.e2e.hot_account import FOLDER_VARIABLE
from tests.e2e.hot_story import CHILDREN, GENERATORS, ROUNDS, TASKS, THREADS
from tests.e2e.readback import by_id, in_jaeger, unlike
from tests.e2e.servers import Jaeger
from tests.integration.programs import Ended, run

OWN: Final = """
from tests.e2e.hot_story import tell
tell()
"""

JOINED: Final = f"""
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=100_000))
trace.set_tracer_provider(provider)
{OWN}
"""

TOLD_ON_EXCEPTIONS: Final = ("exception.type", "exception.message")


@dataclass(frozen=True, kw_only=True)
class Told:
    """A story, and what became of it.

    Attributes:
        made: What the program made, by its own account.
        found: What Jaeger has of it.
        traces: The traces that Jaeger finds of the program.
        ended: How it ended.
        own: Whether the spans went by our own provider.
    """

    made: list[ReceivedSpan]
    found: list[ReceivedSpan]
    traces: Counter[str]
    ended: Ended
    own: bool


@pytest.fixture(scope="module", params=["http-gzip", "grpc", "joined"])
def told(request: pytest.FixtureRequest, jaeger_server: Jaeger, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Have the story told, and read it back."""
    folder, way = tmp_path_factory.mktemp("accounts"), str(request.param)
    service, own = f"hot-{way}", way != "joined"
    ended = run(
        OWN if own else JOINED,
        {
            FOLDER_VARIABLE: str(folder),
            "OTEL_SERVICE_NAME": service,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if way == "grpc" else "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger_server.otlp_grpc if way == "grpc" else jaeger_server.otlp_http,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip" if way == "http-gzip" else "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        },
    )
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    made = [_made(json.loads(line), own=own) for line in lines]
    found = [_compared(span, own=own) for span in in_jaeger(jaeger_server, made)]
    traces = {trace["traceID"]: len(trace["spans"]) for trace in jaeger_server.search(service)}
    return Told(made=made, found=found, traces=Counter(traces), ended=ended, own=own)


def _made(record: Mapping[str, Any], *, own: bool) -> ReceivedSpan:
    """Return a line of an account as a span."""
    attributes = {
        key: tuple(value) if isinstance(value, list) else value for key, value in record["attributes"].items()
    }
    if record["result"]:
        attributes[RESULT] = record["result"]
    return ReceivedSpan(
        **{
            name: record[name]
            for name in (
                "trace_id", "span_id", "parent_span_id", "name", "kind", "start_ns", "end_ns", "status_code",
                "status_message", "trace_state",
            )
        },
        attributes=attributes,
        events=_sorted(
            ReceivedEvent(name=name, time_ns=at_ns, attributes=given) for name, at_ns, given in record["events"]
        ),
        links=tuple(
            ReceivedLink(trace_id=trace_id, span_id=span_id, trace_state="", attributes=given, flags=_remote(remote))
            for trace_id, span_id, remote, given in record["links"]
        ),
        flags=_remote(record["remote"]),
        scope=ReceivedScope(name=record["scope"]),
        resource={PROCESS_PID: record["process"]} if own else {},
    )  # fmt: skip


def _compared(span: ReceivedSpan, *, own: bool) -> ReceivedSpan:
    """Leave of a span what the program takes down; all other attributes are those of its verb."""
    return replace(
        span,
        attributes={key: value for key, value in span.attributes.items() if key.startswith("app.") or key == RESULT},
        events=_sorted(
            replace(event, attributes={key: event.attributes[key] for key in event.attributes if _is_told(key)})
            for event in span.events
        ),
        scope=ReceivedScope(name=span.scope.name),
        resource={PROCESS_PID: span.resource[PROCESS_PID]} if own else {},
    )


def _is_told(key: str) -> bool:
    return key.startswith("app.") or key in TOLD_ON_EXCEPTIONS


def _sorted(events: Iterator[ReceivedEvent]) -> tuple[ReceivedEvent, ...]:
    """Return events by name, as Jaeger has them; of one name by time."""
    return tuple(sorted(events, key=lambda event: (event.name, event.time_ns)))


def _remote(remote: bool) -> int:
    return HAS_IS_REMOTE | (IS_REMOTE if remote else 0)


def test_every_span_is_there_once_as_it_was_made(told: Told) -> None:
    """Ids, parents, nanoseconds, names, kinds, status, results, attributes, events and links, field by field."""
    assert len(told.made) == len({span.span_id for span in told.made})
    assert [] == unlike(by_id(told.made), by_id(told.found))[:10]


def test_there_is_no_other_span(told: Told) -> None:
    """Jaeger finds the traces that the program made, and in each as many spans."""
    assert Counter(span.trace_id for span in told.made) == told.traces


def test_the_story_has_all_that_makes_contexts_difficult(told: Told) -> None:
    """By the program's account: else nothing was shown."""
    names = Counter(span.name for span in told.made)
    assert TASKS == names["call lib.task"]
    assert (THREADS + 1) * ROUNDS == names["call lib.threaded"]
    assert 2 * (GENERATORS + 2) == names["call lib.stream"]
    assert 2 * GENERATORS == names["call lib.held"]
    assert (CHILDREN + 2) * ROUNDS == names["call lib.in a child"]
    results = Counter(span.attributes.get(RESULT) for span in told.made)
    assert {"success", "failure", "timeout", "cancellation", "skip", None} == results.keys()
    assert 1 + ROUNDS == len({span.trace_id for span in told.made})
    assert not told.own or 1 + CHILDREN == len({span.resource[PROCESS_PID] for span in told.made})


def test_nobody_complains_and_nothing_is_lost(told: Told) -> None:
    """No context that could not be restored, no warning, no drop."""
    assert [] == told.ended.errors
    (said,) = told.ended.output
    (counts,) = [counts for counts in json.loads(said) if counts["signal"] == "traces"] or [{}]
    assert not told.own or counts["accepted"] == counts["delivered"] > 0
