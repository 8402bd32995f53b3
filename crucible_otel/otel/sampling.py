"""Whether a span of a hot event is kept: what the provider's sampler says, asked no more often than it has to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind
from opentelemetry.trace.span import TraceState

LOW_64 = 2**64 - 1
"""The half of a trace id that samplers by ratio look at."""

Rule = bool | int | None
"""True keeps and False drops; a number keeps the trace ids whose low 64 bits are below it; None asks the sampler."""


class Verdict(NamedTuple):
    """What a sampler says of one span.

    Attributes:
        recording: Whether it is recorded.
        sampled: Whether it is kept and said to be.
        attributes: The attributes it starts with.
        trace_state: Its trace state.
    """

    recording: bool
    sampled: bool
    attributes: Mapping[str, Any] = {}
    trace_state: TraceState | None = None


Ask = Callable[[Context, int, str, SpanKind, Mapping[str, Any]], Verdict]
"""``ask(context, trace_id, name, kind, attributes)``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """A sampler, by what it does with each kind of parent.

    Attributes:
        root: Without a parent.
        local_sampled: With a sampled parent of this process.
        local_unsampled: With another parent of this process.
        remote_sampled: With a sampled parent of another process.
        remote_unsampled: With another parent of another process.
        ask: What the sampler says where a rule is None.
    """

    root: Rule = True
    local_sampled: Rule = True
    local_unsampled: Rule = False
    remote_sampled: Rule = True
    remote_unsampled: Rule = False
    ask: Ask | None = None

    def of_parent(self, *, remote: bool, sampled: bool) -> Rule:
        """Return the rule for a parent."""
        if remote:
            return self.remote_sampled if sampled else self.remote_unsampled
        return self.local_sampled if sampled else self.local_unsampled


def keeps(rule: bool | int, trace_id: int) -> bool:
    """Return what a rule that needs no asking says of a trace."""
    return rule if isinstance(rule, bool) else trace_id & LOW_64 < rule
