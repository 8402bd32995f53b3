"""Training runs: ``cx.train`` and everything that belongs to a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

from crucible_otel.events.runtime import Runtime, runtime
from crucible_otel.events.scope import Scope, current, innermost
from crucible_otel.otel.current import engine_of
from crucible_otel.otel.handle import Handle
from crucible_otel.semconv.training import (
    CHECKPOINT_POINT,
    EVALUATION_POINT,
    SKIP_EVENT,
    STEP_EVENT,
    TRAINING,
)
from crucible_otel.verbs.epochs import Epoch, Epochs, OpenEpoch
from crucible_otel.verbs.evaluation import Checkpoint, Evaluation, flattened
from crucible_otel.verbs.managed import Nothing
from crucible_otel.verbs.steps import Steps

_RUN = "run"


class Run:
    """A training run; see :func:`train`.

    Attributes:
        model: Name of the model.
        step: ``run.step(loss=, learning_rate=, gradient_norm=, tokens=, samples=, step=, metrics=)`` records one
            training step. Its duration runs from the step before, from the start of the run or epoch, or from the end
            of an evaluation, checkpoint or pause. A lower ``step`` than the last is a rewind and counts as such; the
            same one again only adds what was missing. Tensors are welcome: their graph is not kept, and they are not
            read on the spot when that would wait for an accelerator.
    """

    step: Callable[..., None]

    def __init__(
        self, model: str, fields: dict[str, Any], start_step: int, tolerated: frozenset[str] = frozenset()
    ) -> None:
        self.model = model
        self._fields, self._start_step, self._tolerated = fields, start_step, tolerated
        self._runtime: Runtime | None = None
        self._scope: Scope | None = None
        self._handle: Handle | None = None
        self._epoch: OpenEpoch | None = None
        self._dropped: tuple[OpenEpoch, float] | None = None
        self._owned: list[Any] = []
        self.excluded_s = 0.0
        self.step = self._first_step

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> Run:
        """Start the run and make it current; starting it twice does nothing."""
        if self._scope is not None:
            return self
        self._runtime = configured = runtime()
        self._scope = scope = configured.open(TRAINING, dict(self._fields))
        fields = {key: self._fields[key] for key in ("total_steps",) if self._fields.get(key) is not None}
        self._handle = handle = engine_of(configured).handle(
            STEP_EVENT, (self.model,), scope, fields, self._start_step, self._tolerated
        )
        scope.handles[STEP_EVENT.name], scope.handles[_RUN] = handle, self
        self.step = handle.record
        handle.mark()
        return self

    def finish(self, error: BaseException | None = None, **fields: Any) -> None:
        """End the run, and what is still open in it; ending it twice does nothing.

        Args:
            error: The exception it ends with.
            fields: Further attributes, such as ``final_loss``.
        """
        scope, configured, handle = self._scope, self._runtime, self._handle
        if scope is None or configured is None or handle is None or scope.ended:
            return
        if error is None:
            self.settle()
        for owned in reversed(self._owned[:]):
            owned._end(error)
        if self._epoch is not None:
            self._epoch.end(error)
        handle.log_last()
        last = handle.last_record()
        if last is not None:
            fields.setdefault("step", handle.reached())
        configured.close(scope, error=error, metadata=fields)

    def __enter__(self) -> Run:
        """Start the run."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run; an exception travels on."""
        self.finish(error)

    # -- loops -------------------------------------------------------------------------------------------------------

    def epochs(self, total: int | None = None, *, start: int = 0) -> Epochs:
        """Iterate over epochs: each is a span, ended by the next one.

        Args:
            total: How many there are altogether; ``total_epochs`` of the run by default.
            start: Number of the first one; a run that goes on after two of five passes ``start=2``.

        Returns:
            An iterator of :class:`Epoch`, which is the number, with ``log``.
        """
        self.start()
        planned = total if total is not None else self._fields.get("total_epochs")
        return Epochs(self, start, planned)

    def epoch(self, number: int) -> OpenEpoch:
        """Run one epoch as a ``with`` block, which gives an :class:`Epoch`."""
        self.start()
        return OpenEpoch(self, number, self._fields.get("total_epochs"))

    def steps(
        self, loader: Iterable[Any], *, accumulate: int = 1, start: int | None = None, samples: int | None = None
    ) -> Steps:
        """Iterate over ``(batch, step)``: one step is one optimizer step, and the wait for its data is measured.

        A step runs from the arrival of its first batch to the next iteration, less evaluations, checkpoints and
        pauses in between. When the loop is left by ``break``, the step in progress counts if something was logged.

        Args:
            loader: Any iterable of batches.
            accumulate: Batches a step takes; the last step of the loader may take fewer.
            start: Number of the last step made before; goes on from the run's own count by default.
            samples: Samples in a batch; inferred from the batch when missing.
        """
        self.start()
        self.settle()
        return Steps(self, loader, accumulate, start, samples)

    # -- points ------------------------------------------------------------------------------------------------------

    def skip(self, reason: str = "user", *, step: int | None = None) -> None:
        """Report a step that was not made: ``nan``, ``overflow``, ``user`` or a reason of yours."""
        self.point(SKIP_EVENT, {}, {"reason": reason, "step": step})

    def evaluation(self, metrics: Mapping[str, Any], *, split: str = "validation", step: int | None = None) -> None:
        """Report an evaluation that has been made elsewhere.

        Args:
            metrics: Name -> number; nested maps are joined by dots.
            split: Which part of the data.
            step: Training step it belongs to; the last one by default.
        """
        self.point(
            EVALUATION_POINT,
            {"metrics": flattened(metrics)},
            {"split": split, "step": step if step is not None else self.reached()},
        )

    def checkpoint_saved(
        self,
        name: str,
        *,
        path: Any = None,
        size_bytes: int | None = None,
        duration_s: float | None = None,
        step: int | None = None,
    ) -> None:
        """Report a checkpoint that has been saved; with a duration it becomes a span too."""
        timed = isinstance(duration_s, (int, float)) and 0 <= duration_s < 1e9
        given = {"size_bytes": size_bytes, "duration": round(duration_s * 1e9) if timed and duration_s else None}
        self.point(
            CHECKPOINT_POINT,
            {key: value for key, value in given.items() if value is not None},
            {"checkpoint_name": name, "path": None if path is None else str(path), "step": step or self.reached()},
        )

    # -- blocks ------------------------------------------------------------------------------------------------------

    def evaluate(self, split: str = "validation", **fields: Any) -> Evaluation:
        """Evaluate, as a ``with`` block: a span of its own that never counts training steps.

        Args:
            split: Which part of the data.
            fields: Further attributes.
        """
        self.start()
        self.settle()
        return Evaluation(self, {"split": split, "step": self.reached(), **fields})

    def checkpoint(self, name: str, *, path: Any = None, size_bytes: int | None = None, **fields: Any) -> Checkpoint:
        """Save a checkpoint, as a ``with`` block; its size is read from ``path`` when the block ends.

        Args:
            name: Name of the checkpoint.
            path: File or directory.
            size_bytes: Its size, where the path does not tell.
            fields: Further attributes.
        """
        self.start()
        self.settle()
        given = {"checkpoint_name": name, "path": None if path is None else str(path), "step": self.reached(), **fields}
        return Checkpoint(self, given, size_bytes)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave a block out of the duration of the step it stands in or before."""
        self.start()
        began_s = self.now()
        try:
            yield
        finally:
            self.exclude(began_s)

    # -- inside, for the modules of this room ------------------------------------------------------------------------

    @property
    def handle(self) -> Handle:
        """The handle of the run's steps."""
        self.start()
        assert self._handle is not None
        return self._handle

    @property
    def runtime(self) -> Runtime:
        """The runtime the run was started in."""
        self.start()
        assert self._runtime is not None
        return self._runtime

    @property
    def scope(self) -> Scope | None:
        """The run's scope; None before it starts."""
        return self._scope

    def now(self) -> float:
        """Return the monotonic time, in seconds."""
        return self.runtime.clock.now()

    def reached(self) -> int | None:
        """Return the number of the last step, None before the first."""
        return self.handle.reached()

    def exclude(self, began_s: float) -> None:
        """Leave the time since ``began_s`` out of the step it stands in or before."""
        self.excluded_s += self.now() - began_s
        self.handle.mark()

    def point(self, spec: Any, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Emit a point event in the run, wherever it is called from."""
        self.start()
        self.settle()
        self.runtime.point(spec, measurements, metadata, scope=self._place())

    def _place(self) -> Scope | None:
        here = current()
        own = self._epoch.scope if self._epoch is not None else self._scope
        inner = here
        while inner is not None:
            if inner is self._scope:
                return here if own is self._scope or self._within(here, own) else own
            inner = inner.parent
        return own

    @staticmethod
    def _within(inner: Scope | None, outer: Scope | None) -> bool:
        while inner is not None and inner is not outer:
            inner = inner.parent
        return inner is not None

    def _first_step(self, *args: Any, **kwargs: Any) -> None:
        self.start()
        self.step(*args, **kwargs)

    # -- epochs ------------------------------------------------------------------------------------------------------

    def epoch_opened(self, epoch: OpenEpoch) -> None:
        """Take over a new epoch; what was open ends."""
        self.settle()
        if self._epoch is not None:
            self._epoch.end(None)
        self._epoch = epoch
        handle = self.handle
        handle.owner.scope = epoch.scope
        handle.mark()
        handle.log_next()

    def epoch_ending(self, epoch: OpenEpoch) -> None:
        """Let go of an epoch that ends: its last step becomes a log event."""
        self.handle.log_last()
        self.handle.owner.scope = self._scope
        self._dropped = None
        if self._epoch is epoch:
            self._epoch = None

    def epoch_dropped(self, epoch: OpenEpoch) -> None:
        """Remember an epoch whose loop was left; whether by ``break`` or by an exception shows later."""
        self._dropped = (epoch, self.now())

    def settle(self) -> None:
        """End an epoch whose loop was left by ``break``, at the time it was left."""
        if self._dropped is not None:
            (epoch, at_s), self._dropped = self._dropped, None
            epoch.end(None, at_s=at_s)

    def owned(self, managed: Any) -> None:
        """End this with the run, if it has not ended by itself."""
        self._owned.append(managed)

    def disowned(self, managed: Any) -> None:
        """It has ended by itself."""
        with contextlib.suppress(ValueError):
            self._owned.remove(managed)


def train(
    model: str,
    *,
    total_steps: int | None = None,
    total_epochs: int | None = None,
    start_step: int = 0,
    config: Mapping[str, Any] | None = None,
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
        config: Configuration; JSON text on the span.
        loss_scaling: Whether a gradient norm that is not finite is expected now and then.
        fields: Further attributes of the span.
    """
    if not runtime().enabled:
        return NO_RUN
    tolerated = frozenset({"gradient_norm"}) if loss_scaling else frozenset()
    begin = start_step if isinstance(start_step, int) else 0
    given = {
        "model": model,
        "total_steps": total_steps,
        "total_epochs": total_epochs,
        "start_step": start_step or None,
        "config": dict(config) if config else None,
        **fields,
    }
    return Run(str(model), given, begin, tolerated)


def current_run() -> Run | None:
    """Return the training run in progress: the calling context's, else the one that was started last."""
    configured = runtime()
    scope = innermost(TRAINING.name)
    candidates = [scope] if scope is not None else reversed(list(configured.open_scopes.values()))
    for candidate in candidates:
        if candidate.operation is TRAINING and isinstance(candidate.handles.get(_RUN), Run):
            found: Run = candidate.handles[_RUN]
            return found
    return None


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


class _NoStep(Nothing):
    number = index = 0
    log = staticmethod(_nothing)


class _NoBlock(_NoStep):
    @staticmethod
    def batches(loader: Iterable[Any]) -> Iterable[Any]:
        return loader


class _NoRun(Run):
    """Stands in for a run while telemetry is switched off."""

    def __init__(self) -> None:
        self.model, self.step, self.excluded_s = "", _nothing, 0.0

    start = __enter__ = lambda self: self  # type: ignore[assignment]
    finish = __exit__ = _nothing  # type: ignore[assignment]
    skip = evaluation = checkpoint_saved = _nothing  # type: ignore[assignment]

    def epochs(self, total: int | None = None, *, start: int = 0) -> Any:
        return map(_quiet_epoch, range(start, total if total is not None else start))

    def epoch(self, number: int) -> Any:
        return contextlib.nullcontext(_quiet_epoch(number))

    def steps(self, loader: Iterable[Any], **options: Any) -> Any:
        return ((batch, _NO_STEP) for batch in loader)

    def evaluate(self, split: str = "validation", **fields: Any) -> Any:
        return _NO_BLOCK

    def checkpoint(self, name: str, **fields: Any) -> Any:
        return _NO_BLOCK

    def pause(self) -> Any:
        return _NO_BLOCK


def _quiet_epoch(number: int) -> Epoch:
    return Epoch(number)


_NO_STEP, _NO_BLOCK = _NoStep(), _NoBlock()
NO_RUN = _NoRun()
