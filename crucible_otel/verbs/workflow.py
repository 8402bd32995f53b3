"""Workflows and stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from crucible_otel.events.names import text
from crucible_otel.events.runtime import runtime
from crucible_otel.semconv.workflow import STAGE_OPERATION, WORKFLOW_OPERATION
from crucible_otel.verbs.given import mapping
from crucible_otel.verbs.managed import Managed
from crucible_otel.verbs.quiet import NOTHING, QuietWorkflow, new_run_id


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
            self.fields["run_id"] = new_run_id()


def workflow(name: str, *, run_id: str | None = None, tags: Mapping[str, Any] | None = None, **fields: Any) -> Workflow:
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
    identity = "" if run_id is None else text(run_id)
    if not runtime().enabled:
        return cast("Workflow", QuietWorkflow(identity))
    given = {"workflow": text(name), "run_id": identity, "tags": mapping(tags, "workflow(tags)") or None, **fields}
    return Workflow(WORKFLOW_OPERATION, given)


class Stage(Managed):
    """A stage; see :func:`stage`."""


def stage(name: str, *, module: str | None = None, index: int | None = None, **fields: Any) -> Stage:
    """Run a stage of a workflow: a span below the current one, its events, its duration.

    Use it around a block or as a decorator, like :func:`workflow`.

    Args:
        name: Name of the stage; few different ones, because it becomes a metric attribute.
        module: Module or class that implements it.
        index: Position in the workflow.
        fields: Further attributes of its span and events.
    """
    if not runtime().enabled:
        return cast("Stage", NOTHING)
    return Stage(STAGE_OPERATION, {"stage": text(name), "module": module, "stage_index": index, **fields})
