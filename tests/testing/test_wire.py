"""Undoing content encodings of senders that nobody knows."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest

from crucible_otel.testing.wire import BodyTooLargeError, decompress

MIB = 1024 * 1024


def test_a_bomb_is_not_unpacked_to_find_out_that_it_is_one() -> None:
    """64 MiB in 64 KiB are refused at the cost of the one that is allowed."""
    bomb = gzip.compress(bytes(64 * MIB))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLargeError, match=f"more than {MIB} bytes"):
            decompress(bomb, "gzip", MIB)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 8 * MIB


@pytest.mark.parametrize("encoding", ["", "identity", "gzip"])
def test_the_largest_body_that_is_allowed_is_taken(encoding: str) -> None:
    """The limit itself is within the limit, and one more is beyond it."""
    exact, beyond = bytes(1_000), bytes(1_001)
    pack = gzip.compress if encoding == "gzip" else bytes

    assert exact == decompress(pack(exact), encoding, 1_000)
    with pytest.raises(BodyTooLargeError):
        decompress(pack(beyond), encoding, 1_000)
