"""Numbers for people."""

from __future__ import annotations

import math

import pytest

from crucible_otel.cli.demo.numbers import counted, plain, quantile, seconds, size
from crucible_otel.testing.records import ReceivedMetric, ReceivedScope


def histogram(buckets: tuple[int, ...], **more: float) -> ReceivedMetric:
    """Return a point with bounds 1, 2, 4."""
    return ReceivedMetric(
        name="h",
        unit="s",
        description="",
        kind="histogram",
        attributes={},
        time_ns=1,
        start_ns=0,
        count=sum(buckets),
        buckets=buckets,
        bounds=(1.0, 2.0, 4.0),
        min=more.get("least"),
        max=more.get("greatest"),
        scope=ReceivedScope(),
        resource={},
    )


@pytest.mark.parametrize(
    ("point", "share", "expected"),
    [
        (histogram((0, 0, 0, 0)), 0.5, None),
        (histogram((4, 0, 0, 0)), 0.5, 0.5),
        (histogram((4, 0, 0, 0), least=0.6, greatest=0.8), 0.5, 0.7),
        (histogram((2, 2, 0, 0)), 0.5, 1.0),
        (histogram((2, 2, 0, 0)), 0.75, 1.5),
        (histogram((0, 0, 0, 4), least=5.0, greatest=9.0), 0.5, 7.0),
        (histogram((0, 0, 0, 4)), 0.95, 4.0),
        (histogram((1, 1, 1, 1), least=0.5, greatest=8.0), 1.0, 8.0),
    ],
)
def test_quantile_is_interpolated_within_what_was_seen(
    point: ReceivedMetric, share: float, expected: float | None
) -> None:
    """As Prometheus does it, but never below the least or above the greatest value."""
    found = quantile(point, share)

    assert expected is found if expected is None or found is None else math.isclose(expected, found)


def test_numbers_have_three_digits_and_a_unit() -> None:
    """Durations and sizes in the unit that fits."""
    assert ["1.62 s", "120 s", "35.2 ms", "180 us", "0 us"] == [
        seconds(value) for value in (1.618, 120.0, 0.03521, 0.00018, 0.0)
    ]
    assert ["670 kB", "2.39 MB", "12 B"] == [size(value) for value in (670_400, 2_390_000, 12)]


def test_plain_numbers_stay_readable() -> None:
    """Whole ones without a point, small ones not as zero."""
    assert ["3,771", "0.4240", "2.1e-05", "0"] == [plain(value) for value in (3771, 0.424, 0.000021, 0)]
    assert ["1 file", "3 files"] == [counted(count, "file") for count in (1, 3)]
