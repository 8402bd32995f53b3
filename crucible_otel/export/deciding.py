"""The SDK's samplers as rules: those that are built in need not be asked for each span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, StaticSampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind

from crucible_otel.otel.sampling import Rule, Sampling, Verdict

__all__ = ["rules_of"]

_DELEGATES = {
    "root": "_root",
    "local_sampled": "_local_parent_sampled",
    "local_unsampled": "_local_parent_not_sampled",
    "remote_sampled": "_remote_parent_sampled",
    "remote_unsampled": "_remote_parent_not_sampled",
}
"""What decides for each kind of parent -> where a parent-based sampler keeps it."""


def rules_of(sampler: Sampler) -> Sampling:
    """Return what a sampler does with each kind of parent.

    A class of the user's own is asked for every span, also one derived from a built-in one.

    Args:
        sampler: The provider's sampler.
    """

    def ask(context: Context, trace_id: int, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> Verdict:
        result = sampler.should_sample(context, trace_id, name, kind, attributes, ())
        sampled = result.decision is Decision.RECORD_AND_SAMPLE
        recording = sampled or result.decision is Decision.RECORD_ONLY
        return Verdict(recording, sampled, result.attributes or {}, result.trace_state)

    rule = _rule(sampler)
    if rule is not None:
        return Sampling(**dict.fromkeys(_DELEGATES, rule), ask=ask)
    if not _is_built_in(sampler, ParentBased):
        return Sampling(**dict.fromkeys(_DELEGATES, None), ask=ask)
    return Sampling(**{name: _rule(getattr(sampler, kept, None)) for name, kept in _DELEGATES.items()}, ask=ask)


def _rule(sampler: Any) -> Rule:
    if _is_built_in(sampler, StaticSampler):
        decision = getattr(sampler, "_decision", None)
        return {Decision.RECORD_AND_SAMPLE: True, Decision.DROP: False}.get(decision)  # type: ignore[arg-type]
    if _is_built_in(sampler, TraceIdRatioBased):
        bound = sampler.bound
        return bound if isinstance(bound, int) and not isinstance(bound, bool) else None
    return None


def _is_built_in(sampler: Any, kind: type) -> bool:
    """Return whether a sampler decides as one of the SDK's does: nothing of that is overridden."""
    if not isinstance(sampler, kind) or "should_sample" in vars(sampler):
        return False
    return type(sampler).should_sample is kind.should_sample  # type: ignore[attr-defined]
