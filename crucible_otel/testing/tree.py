"""Spans as trees, and trees as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from crucible_otel.testing.records import ReceivedSpan

__all__ = ["SpanNode", "build_trees"]

_UNITS: Final = ((1.0, "s"), (1e3, "ms"), (1e6, "us"))


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanNode:
    """A span and those it contains.

    Attributes:
        span: The span.
        children: Those that name it as their parent, by start.
    """

    span: ReceivedSpan
    children: tuple[SpanNode, ...] = field(default=(), repr=False)

    def walk(self) -> Iterator[tuple[int, SpanNode]]:
        """Yield this node and all below it with their depths, parents before children."""
        waiting = [(0, self)]
        while waiting:
            depth, node = waiting.pop()
            yield depth, node
            waiting.extend((depth + 1, child) for child in reversed(node.children))

    def find(self, name: str) -> tuple[SpanNode, ...]:
        """Return the nodes of this name, here and below."""
        return tuple(node for _, node in self.walk() if node.span.name == name)

    def render(self, *, attributes: Sequence[str] = (), max_children: int = 20) -> str:
        """Return the tree as text: a line a span, indented by depth, with its duration.

        Args:
            attributes: Span attributes to show after the name, where a span has them, by the last part of their name.
            max_children: How many children of a span to show; the others are counted.
        """
        rows: list[tuple[str, str]] = []
        waiting: list[tuple[int, SpanNode | int]] = [(0, self)]
        while waiting:
            depth, node = waiting.pop()
            if isinstance(node, int):
                rows.append((f"{'  ' * depth}... {node} more", ""))
                continue
            rows.append(("  " * depth + _label(node.span, attributes), _duration(node.span.duration_s)))
            hidden = len(node.children) - max_children
            if hidden > 0:
                waiting.append((depth + 1, hidden))
            waiting.extend((depth + 1, child) for child in reversed(node.children[:max_children]))
        width = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{width}}  {duration:>9}".rstrip() for label, duration in rows)


def build_trees(spans: Iterable[ReceivedSpan]) -> list[SpanNode]:
    """Build the trees that spans form.

    Args:
        spans: The spans, in any order. One whose parent is not among them is a root. Of several with one id all are
            shown; the children stay with the first.

    Returns:
        The roots, by start.
    """
    by_start = sorted(spans, key=lambda span: (span.start_ns, -span.end_ns))
    first: dict[tuple[str, str], int] = {}
    for index, span in enumerate(by_start):
        first.setdefault((span.trace_id, span.span_id), index)
    parents = [first.get((span.trace_id, span.parent_span_id)) if span.parent_span_id else None for span in by_start]
    children: defaultdict[int | None, list[int]] = defaultdict(list)
    for index, parent in enumerate(parents):
        children[parent].append(index)

    nodes: dict[int, SpanNode] = {}
    roots: list[int] = []
    for index in range(len(by_start)):
        if index not in nodes:
            root = _top(index, parents)
            roots.append(root)
            _grow(root, by_start, children, nodes)
    return [nodes[root] for root in sorted(roots)]


def _top(index: int, parents: Sequence[int | None]) -> int:
    """Return the root above a span; of spans that go round in circles, one of the circle."""
    seen = set()
    while (parent := parents[index]) is not None and index not in seen:
        seen.add(index)
        index = parent
    return index


def _grow(
    root: int, spans: Sequence[ReceivedSpan], children: Mapping[int | None, list[int]], nodes: dict[int, SpanNode]
) -> None:
    """Add the nodes of one tree; without recursion, for a tree may be deeper than the stack."""
    order, waiting = [], [root]
    while waiting:
        order.append(waiting.pop())
        waiting.extend(child for child in children.get(order[-1], ()) if child != root)
    for index in reversed(order):
        below = tuple(nodes[child] for child in children.get(index, ()) if child != root)
        nodes[index] = SpanNode(span=spans[index], children=below)


def _label(span: ReceivedSpan, attributes: Sequence[str]) -> str:
    present = [name for name in attributes if name in span.attributes]
    shown = ", ".join(f"{name.rpartition('.')[2]}={span.attributes[name]}" for name in present)
    failed = f"  ! {span.status_message}".rstrip() if span.status_code == "error" else ""
    return f"{span.name}{f' [{shown}]' if shown else ''}{failed}"


def _duration(duration_s: float) -> str:
    if duration_s >= 60:
        minutes, seconds = divmod(round(duration_s), 60)
        return f"{minutes} m {seconds:02} s"
    factor, unit = next((pair for pair in _UNITS if duration_s * pair[0] >= 1), _UNITS[-1])
    amount = duration_s * factor
    # Three digits, and never an exponent.
    return f"{amount:.0f} {unit}" if amount >= 100 else f"{amount:.3g} {unit}"
