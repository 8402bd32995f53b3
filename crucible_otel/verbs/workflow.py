"""Workflows and stages."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from crucible_otel.events.runtime import runtime
from crucible_otel.semconv.workflow import STAGE_OPERATION, WORKFLOW_OPERATION
from crucible_otel.verbs.managed import NOTHING, Managed, Nothing

_RUN_ID_BYTES = 8


class Workflow(Managed):
    """A workflow run; see :func:`workflow`."""

    @property
    def run_id(self) -> str:
        """Identity of this run."""
        return str(self.fields.get("run_id", ""))

    def __enter__(self) -> Workflow:
        """Start the run; it gets a run id if it was given none."""
        self._identify()
        return super().__enter__()

    def _for(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Workflow:
        one = super()._for(function, args, kwargs)
        one._identify()
        return one

    def _identify(self) -> None:
        if not self.fields.get("run_id"):
            self.fields["run_id"] = secrets.token_hex(_RUN_ID_BYTES)


def workflow(
    name: str, *, run_id: str | None = None, tags: Mapping[str, Any] | None = None, **fields: Any
) -> Workflow | Nothing:
    """Run a workflow: the root span, its start and end events, its duration.

    Use it around a block, or as a decorator of a function, coroutine function or generator; as a decorator each call
    is a run of its own, and ``{argument}`` in the name is replaced by that argument.

    Args:
        name: Name of the workflow; few different ones, because it becomes a metric attribute.
        run_id: Identity of this run; generated when missing.
        tags: What you want to find it by; attributes of its span.
        fields: Further attributes of its span and events.

    Returns:
        A context manager whose ``run_id`` is the run's identity.
    """
    if not runtime().enabled:
        return NOTHING
    return Workflow(
        WORKFLOW_OPERATION, {"workflow": name, "run_id": run_id, "tags": dict(tags) if tags else None, **fields}
    )


class Stage(Managed):
    """A stage; see :func:`stage`."""


def stage(name: str, *, module: str | None = None, index: int | None = None, **fields: Any) -> Stage | Nothing:
    """Run a stage of a workflow: a span below the current one, its events, its duration.

    Use it around a block or as a decorator, like :func:`workflow`.

    Args:
        name: Name of the stage; few different ones, because it becomes a metric attribute.
        module: Module or class that implements it.
        index: Position in the workflow.
        fields: Further attributes of its span and events.
    """
    if not runtime().enabled:
        return NOTHING
    return Stage(STAGE_OPERATION, {"stage": name, "module": module, "stage_index": index, **fields})
