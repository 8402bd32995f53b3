"""What a benchmark comes to: figures, some of them promised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table.

    Attributes:
        name: What it is.
        value: The figure.
        unit: ``x`` of a ratio, ``%``, ``B``, ``MiB``, ``ns``, ``us``, ``ms``, ``a second``, or what is counted.
        better: Whether more or less is better.
        target: What is promised; None for a figure that is only informative.
        low: Lower quartile of the rounds.
        high: Upper quartile of the rounds.
        note: What a reader must know.
    """

    name: str
    value: float
    unit: str = "x"
    better: Literal["more", "less"] = "more"
    target: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "more" else self.value <= self.target

    def data(self) -> dict[str, Any]:
        """Return the line as JSON data."""
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True, kw_only=True)
class Section:
    """The lines of one benchmark.

    Attributes:
        results: The lines.
        figures: What they were made of: name -> figure; for who wants to look closer.
        method: How it was measured, in a sentence or two.
    """

    results: tuple[Result, ...]
    method: str
    figures: dict[str, Any] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """Return the section as JSON data."""
        return {
            "method": self.method,
            "results": [result.data() for result in self.results],
            "figures": self.figures,
        }


def percentiles(values: Iterable[float], *ranks: float) -> dict[str, float]:
    """Return percentiles by the nearest rank: ``{"p99.9": ...}``."""
    ordered = sorted(values)
    return {f"p{rank:g}": ordered[min(len(ordered) - 1, int(len(ordered) * rank / 100))] for rank in ranks}
