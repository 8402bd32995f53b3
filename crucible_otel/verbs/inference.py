"""Inference: ``cx.inference``."""

from __future__ import annotations

from typing import Any, cast

from crucible_otel.events.names import text
from crucible_otel.events.runtime import runtime
from crucible_otel.semconv.inference import INFERENCE_OPERATION
from crucible_otel.verbs.given import guarded, present, whole
from crucible_otel.verbs.quiet import QUIET_INFERENCE
from crucible_otel.verbs.timed import Timed

_SECOND_NS = 1e9


class Inference(Timed):
    """An inference; see :func:`inference`."""

    _batch_size: int | None = None

    @guarded
    def tokens(self, count: int) -> None:
        """Count tokens; several calls add up, and the rate is theirs by the duration.

        Args:
            count: Tokens.
        """
        more = whole(count, "inference.tokens(count)", least=0)
        if more is not None:
            self._measurements["tokens"] = self._measurements.get("tokens", 0) + more

    def _told(self, duration_ns: int) -> None:
        rate = tokens_per_second(self._measurements.get("tokens"), duration_ns)
        self._measurements |= present(batch_size=self._batch_size, tokens_per_second=rate)


def tokens_per_second(tokens: int | None, duration_ns: int | None) -> float | None:
    """Return the rate; None where there is none."""
    return tokens / (duration_ns / _SECOND_NS) if tokens is not None and duration_ns else None


def inference(
    model: str, *, batch_size: int | None = None, device: object = None, version: object = None, **fields: Any
) -> Inference:
    """Ask a model: a span, its duration, items, tokens and their rate.

    Use it around a block, or as a decorator of a function, coroutine function or generator.

    Args:
        model: Name of the model; few different ones, because it becomes a metric attribute.
        batch_size: Items in the batch.
        device: ``cuda:0``, ``("cuda", 0)``, 0 or a framework's own device.
        version: Version of the model; on the span only.
        fields: Further attributes of its span and events.
    """
    if not runtime().enabled:
        return cast("Inference", QUIET_INFERENCE)
    told = None if version is None else text(version)
    made = Inference(INFERENCE_OPERATION, {"model": text(model), "model_version": told, "device": device, **fields})
    made._batch_size = whole(batch_size, "inference(batch_size)", least=0)
    return made
