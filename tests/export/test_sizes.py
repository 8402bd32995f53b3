"""What an item is taken to weigh."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import Link, SpanContext

from crucible_otel.export.sizes import size_of


class Kept(SpanProcessor):
    """Keeps the spans that end."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep it."""
        self.spans.append(span)


@pytest.mark.parametrize(
    "options",
    [
        lambda number: {},
        lambda number: {"attributes": {f"key{each}": f"value {number} {each}" for each in range(8)}},
        lambda number: {"attributes": {"prompt": "word" * 1000 + str(number)}},
        lambda number: {"attributes": {"prompts": tuple("word" * 1000 + f"{number} {each}" for each in range(3))}},
        lambda number: {"links": [Link(SpanContext(2**100 + number + each, 2**50, False)) for each in range(4)]},
    ],
    ids=["bare", "attributes", "text", "texts", "links"],
)
def test_an_estimate_is_within_a_factor_of_two(options: Callable[[int], dict[str, Any]]) -> None:
    """Of the memory that spans really take, whatever they are made of."""
    kept = Kept()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(kept)
    tracer = provider.get_tracer("test")
    tracer.start_span("first").end()  # what is made once for all
    kept.spans.clear()
    tracemalloc.start()
    try:
        for number in range(200):
            span = tracer.start_span(f"span {number}", **options(number))
            span.add_event("event", {"number": number})
            span.end()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    estimated = sum(map(size_of, kept.spans))

    assert taken / 2 < estimated < taken * 2


def test_an_item_that_knows_its_size_is_believed() -> None:
    """As the hot path's records do."""

    class Record:
        nbytes = 123

    assert 123 == size_of(Record())


def test_an_item_of_an_unknown_shape_weighs_something() -> None:
    """Whatever is queued counts; nothing raises."""

    class Odd:
        links = events = attributes = 5

    assert size_of(object()) > 0
    assert [size_of(Odd()), size_of(Odd())] == [size_of(object())] * 2
