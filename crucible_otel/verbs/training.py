"""Training runs: ``cx.train`` and ``cx.current_run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from crucible_otel.events.names import text
from crucible_otel.events.runtime import runtime
from crucible_otel.events.scope import innermost
from crucible_otel.semconv.training import TRAINING
from crucible_otel.verbs.given import mapping, whole
from crucible_otel.verbs.quiet import QuietRun
from crucible_otel.verbs.run import RUN, Run


def train(
    model: str,
    *,
    total_steps: int | None = None,
    total_epochs: int | None = None,
    start_step: int = 0,
    config: Mapping[str, Any] | object | None = None,
    loss_scaling: bool = False,
    **fields: Any,
) -> Run:
    """Describe a training run; use it as a ``with`` block, or call ``start`` and ``finish``.

    Several models in one loop are several runs.

    Args:
        model: Name of the model; few different ones, because it becomes a metric attribute.
        total_steps: Steps planned.
        total_epochs: Epochs planned.
        start_step: Steps made before this run.
        config: Configuration, a map or an object with attributes; JSON text on the span.
        loss_scaling: Whether a gradient norm that is not finite is expected now and then.
        fields: Further attributes of the span.
    """
    epochs = whole(total_epochs, "train(total_epochs)", least=0)
    begin = whole(start_step, "train(start_step)") or 0
    if not runtime().enabled:
        return cast("Run", QuietRun(text(model), epochs, begin))
    given = {
        "model": text(model),
        "total_steps": whole(total_steps, "train(total_steps)", least=0),
        "total_epochs": epochs,
        "start_step": begin or None,
        "config": mapping(getattr(config, "__dict__", config), "train(config)") or None,
        **fields,
    }
    return Run(text(model), given, begin, frozenset({"gradient_norm"}) if loss_scaling is True else frozenset())


def current_run() -> Run | None:
    """Return the training run in progress: the calling context's, else the one that was started last."""
    scope = innermost(TRAINING.name)
    candidates = [] if scope is None else [scope]
    candidates += reversed(list(runtime().open_scopes.values()))
    for candidate in candidates:
        found = candidate.handles.get(RUN)
        if isinstance(found, Run):
            return found
    return None
