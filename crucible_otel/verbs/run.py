"""One training run, and everything that belongs to it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

from opentelemetry.context import Context

from crucible_otel.events.outcome import as_error
from crucible_otel.events.runtime import Runtime, runtime
from crucible_otel.events.scope import Scope, chain, current, innermost
from crucible_otel.otel.current import engine_of
from crucible_otel.otel.handle import Handle
from crucible_otel.otel.values import settled
from crucible_otel.semconv.training import CHECKPOINT_POINT, EVALUATION_POINT, SKIP_EVENT, STEP_EVENT, TRAINING
from crucible_otel.verbs.epochs import Epochs, OpenEpoch, planned
from crucible_otel.verbs.evaluation import Checkpoint, Evaluation, flattened, path_text
from crucible_otel.verbs.given import duration_ns, guarded, present, whole
from crucible_otel.verbs.steps import Steps

RUN = "run"
"""Where a scope keeps its run, among its handles."""


class Run:
    """A training run; see ``cx.train``.

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
        self._loops: tuple[weakref.ref[Steps], ...] = ()
        self._owned: list[Any] = []
        self._aside, self._aside_since_s = 0, 0.0
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
        scope.handles[STEP_EVENT.name], scope.handles[RUN] = handle, self
        self.step = handle.record
        handle.mark()
        return self

    @guarded
    def finish(self, error: BaseException | str | None = None, **fields: Any) -> None:
        """End the run, and what is still open in it; ending it twice does nothing.

        Args:
            error: The exception it ends with, or what went wrong in words.
            fields: Further attributes, such as ``final_loss``.
        """
        scope, configured, handle = self._scope, self._runtime, self._handle
        if scope is None or configured is None or handle is None:
            return
        if scope.ended:
            scope.leave()
            return
        raised = as_error(error)
        for loop in self._open_loops():
            loop.leave()
        if raised is None:
            self.settle()
        for owned in reversed(self._owned[:]):
            owned._end(raised)
        if self._epoch is not None:
            self._epoch.end(raised)
        handle.log_last()
        if handle.last_record() is not None:
            fields.setdefault("step", handle.reached())
        if "final_loss" in fields:
            fields["final_loss"] = settled(fields["final_loss"])
        configured.close(scope, error=raised, metadata=fields)

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
            total: How many there are altogether; ``total_epochs`` of the run by default, and without that the loop
                goes on until it is left.
            start: Number of the first one; a run that goes on after two of five passes ``start=2``.

        Returns:
            An iterator of :class:`Epoch`, which is the number, with ``log``.
        """
        self.start()
        return Epochs(self, whole(start, "run.epochs(start)") or 0, planned(total, self._fields.get("total_epochs")))

    def epoch(self, number: int) -> OpenEpoch:
        """Run one epoch as a ``with`` block, which gives an :class:`Epoch`."""
        self.start()
        return OpenEpoch(self, whole(number, "run.epoch(number)") or 0, self._fields.get("total_epochs"))

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
        loop = Steps(
            self,
            loader,
            whole(accumulate, "run.steps(accumulate)", least=1) or 1,
            whole(start, "run.steps(start)"),
            whole(samples, "run.steps(samples)", least=0),
        )
        self._loops = tuple(map(weakref.ref, (*self._open_loops(), loop)))
        return loop

    # -- points ------------------------------------------------------------------------------------------------------

    @guarded
    def skip(self, reason: str = "user", *, step: int | None = None) -> None:
        """Report a step that was not made: ``nan``, ``overflow``, ``user`` or a reason of yours."""
        self.point(SKIP_EVENT, {}, {"reason": reason, "step": step})

    @guarded
    def evaluation(self, metrics: Mapping[str, Any], *, split: str = "validation", step: int | None = None) -> None:
        """Report an evaluation that has been made elsewhere.

        Args:
            metrics: Name -> number; nested maps are joined by dots.
            split: Which part of the data.
            step: Training step it belongs to; the last one by default.
        """
        self.start()
        self.point(
            EVALUATION_POINT,
            {"metrics": flattened(metrics, "run.evaluation(metrics)")},
            {"split": split, "step": step if step is not None else self.reached()},
        )

    @guarded
    def checkpoint_saved(
        self,
        name: str,
        *,
        path: Any = None,
        size_bytes: int | None = None,
        duration_s: float | None = None,
        step: int | None = None,
    ) -> None:
        """Report a checkpoint that has been saved; with a duration it becomes a span too.

        Args:
            name: Name of the checkpoint.
            path: File or directory.
            size_bytes: Its size.
            duration_s: Seconds that saving it took.
            step: Training step it belongs to; the last one by default.
        """
        self.start()
        self.point(
            CHECKPOINT_POINT,
            present(size_bytes=size_bytes, duration=duration_ns(duration_s, "run.checkpoint_saved(duration_s)")),
            {"checkpoint_name": name, "path": path_text(path), "step": step if step is not None else self.reached()},
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
        given = {"checkpoint_name": name, "path": path_text(path), "step": self.reached(), **fields}
        return Checkpoint(self, given, size_bytes)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave a block out of the duration of the step it stands in or before."""
        self.start()
        self.step_aside()
        try:
            yield
        finally:
            self.come_back()

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

    def _open_loops(self) -> Iterator[Steps]:
        """Yield the loops over its steps that somebody still holds."""
        return (loop for each in self._loops if (loop := each()) is not None)

    def step_aside(self) -> None:
        """Begin something that is no part of a step; what it contains does not count once more."""
        self._aside += 1
        if self._aside == 1:
            self._aside_since_s = self.now()

    def come_back(self) -> None:
        """End something that is no part of a step."""
        self._aside -= 1
        if self._aside == 0:
            aside_s = self.now() - self._aside_since_s
            for loop in self._open_loops():
                loop.exclude(aside_s)
            self.handle.mark()

    def point(self, spec: Any, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Emit a point event in the run, wherever it is called from."""
        self.start()
        self.settle()
        self.runtime.point(spec, measurements, metadata, scope=self._place())

    def _place(self) -> Scope | None:
        """Return the calling context's scope if it lies inside the run, the open epoch or the run itself otherwise."""
        own = self._epoch.scope if self._epoch is not None else self._scope
        here = current()
        return here if own in chain(here) else own

    def _home(self) -> Context | None:
        """Return the context inside the run where the calling one lies in another run; else None."""
        own = self._scope
        around = innermost(own.operation.name) if own is not None else None
        return own.inside() if own is not None and around is not None and around is not own else None

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
