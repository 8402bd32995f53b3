"""Spans as trees and as text."""

from __future__ import annotations

import random
from typing import Any

from crucible_otel.testing import OtlpReceiver, ReceivedSpan, SpanNode
from crucible_otel.testing.records import ReceivedScope
from crucible_otel.testing.tree import build_trees

SECOND = 1_000_000_000


def span(name: str, parent: str = "", *, start: int = 0, duration: int = SECOND, **given: Any) -> ReceivedSpan:
    """Make a span whose id is its name."""
    usual: dict[str, Any] = {
        "trace_id": "t",
        "span_id": name,
        "kind": "internal",
        "attributes": {},
        "events": (),
        "links": (),
        "status_code": "unset",
        "status_message": "",
        "flags": 1,
        "trace_state": "",
        "scope": ReceivedScope(),
        "resource": {},
    }
    times = {"start_ns": start, "end_ns": start + duration}
    return ReceivedSpan(**{**usual, **times, **given, "name": name, "parent_span_id": parent})


def shape(node: SpanNode) -> Any:
    """Return the names of a tree, nested."""
    return (node.span.name, [shape(child) for child in node.children])


def test_spans_are_nested_under_their_parents_by_start() -> None:
    """However they arrived."""
    spans = [
        span("workflow", start=0),
        span("load", "workflow", start=1),
        span("train", "workflow", start=2),
        span("epoch 0", "train", start=3),
        span("epoch 1", "train", start=4),
        span("other", start=5),
    ]
    random.Random(7).shuffle(spans)

    assert [
        ("workflow", [("load", []), ("train", [("epoch 0", []), ("epoch 1", [])])]),
        ("other", []),
    ] == [shape(root) for root in build_trees(spans)]


def test_of_two_that_start_together_the_longer_comes_first() -> None:
    """As it may contain the other."""
    assert ["long", "short"] == [
        root.span.name for root in build_trees([span("short", duration=1), span("long", duration=2)])
    ]


def test_a_span_whose_parent_is_missing_is_a_root() -> None:
    """A parent in another process, or one that was lost, hides nothing; one id in another trace is no parent."""
    spans = [span("orphan", "elsewhere"), span("a", start=1), span("b", "a", start=2, trace_id="another")]

    assert [("orphan", []), ("a", []), ("b", [])] == [shape(root) for root in build_trees(spans)]


def test_a_span_that_came_twice_is_shown_twice() -> None:
    """Its children stay with the first."""
    twice = span("twice")

    assert [("twice", [("child", [])]), ("twice", [])] == [
        shape(root) for root in build_trees([twice, twice, span("child", "twice", start=1)])
    ]


def test_spans_that_go_round_in_circles_are_all_shown_once() -> None:
    """Broken telemetry is shown, not lost, and not for ever."""
    spans = [
        span("leaf", "a", start=0),
        span("a", "b", start=1),
        span("b", "a", start=2),
        span("own parent", "own parent", start=3),
    ]
    roots = build_trees(spans)

    assert {"leaf", "a", "b", "own parent"} == {node.span.name for root in roots for _, node in root.walk()}
    assert 4 == sum(1 for root in roots for _ in root.walk())


def test_a_tree_may_be_deeper_than_the_stack() -> None:
    """Ten thousand levels are built, walked and rendered."""
    spans = [span(str(level), str(level - 1) if level else "", start=level) for level in range(10_000)]
    [root] = build_trees(reversed(spans))

    assert 9_999 == max(depth for depth, _ in root.walk())
    assert 10_000 == len(root.render().splitlines())


def test_nodes_are_found_by_name() -> None:
    """At any depth."""
    [root] = build_trees([span("a"), span("b", "a", start=1), span("epoch", "b", start=2)])

    assert [("epoch", [])] == [shape(node) for node in root.find("epoch")]


def test_a_tree_is_rendered_with_indents_and_durations() -> None:
    """Durations have three digits and a fitting unit, failures their message, long lists a count."""
    key = "my.training.epoch"
    spans = [
        span("run_workflow digits", duration=3_725 * SECOND),
        span("load", "run_workflow digits", start=1, duration=999_600_000),
        span("train", "run_workflow digits", start=2, duration=12_345_678_901),
        span("epoch", "train", start=3, duration=12_345_678, attributes={key: 0}),
        span("save", "train", start=4, duration=4_200, status_code="error", status_message="disk full"),
        *(span(f"more {number}", "train", start=5 + number, duration=0) for number in range(3)),
    ]
    [root] = build_trees(spans)

    assert (
        "run_workflow digits    62 m 05 s\n"
        "  load                   1000 ms\n"
        "  train                   12.3 s\n"
        "    epoch [epoch=0]      12.3 ms\n"
        "    save  ! disk full     4.2 us\n"
        "    ... 3 more"
    ) == root.render(attributes=(key, "absent"), max_children=2)


def test_the_receiver_builds_the_trees_of_what_arrived(receiver: OtlpReceiver, plain_wire: Any, start_sdk: Any) -> None:
    """From the SDK's own spans, over both protocols."""
    sdk = start_sdk(receiver, plain_wire)
    tracer = sdk.traces.get_tracer("test")
    with tracer.start_as_current_span("outer"):
        for name in ("first", "second"):
            with tracer.start_as_current_span(name):
                pass
    sdk.flush()

    assert [("outer", [("first", []), ("second", [])])] == [shape(root) for root in receiver.trace_tree()]
