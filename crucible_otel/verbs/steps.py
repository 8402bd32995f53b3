"""The loop over training steps: measures the wait for data and the step, at the price of two clock reads."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crucible_otel.verbs.run import Run

_NESTED = 4
_NOTHING = (None,) * 6
Given = tuple[Any, Any, Any, Any, Any, Any]
"""Loss, learning rate, gradient norm, tokens, samples, metrics."""
Begun = tuple[float, float, Any]
"""When it began, later by what was no part of it; how long its data was waited for, both in seconds; its samples."""


class Step:
    """The step in progress; valid until the next iteration.

    Attributes:
        number: Its number, counted from the run's ``start_step``; the first one is ``start_step + 1``.
        accumulated: Which of its batches this is, from 1.
    """

    __slots__ = ("_begun", "_given", "_run", "_skipped", "accumulated", "number")

    def __init__(self, run: Run) -> None:
        self._run, self.number, self.accumulated = run, 0, 1
        self._begun: Begun | None = None
        self._given: Given | None = None
        self._skipped = False

    def log(
        self,
        loss: Any = None,
        learning_rate: Any = None,
        gradient_norm: Any = None,
        tokens: Any = None,
        samples: Any = None,
        metrics: Any = None,
    ) -> None:
        """Say what the step came to.

        Several calls make one step: tokens and samples add up, of anything else the last value counts.

        Args:
            loss: Loss.
            learning_rate: Learning rate.
            gradient_norm: Norm of the gradient.
            tokens: Tokens trained on.
            samples: Samples trained on, instead of what the batches tell.
            metrics: Further values, name -> number.
        """
        given = (loss, learning_rate, gradient_norm, tokens, samples, metrics)
        self._given = given if self._given is None else _together(self._given, given)

    def skip(self, reason: str = "user") -> None:
        """Say that the optimizer step was not made: it is counted as skipped, and the next one gets its number."""
        self._skipped = True
        self._run.skip(reason, step=self.number)


class Steps:
    """Iterable of ``(batch, step)``; see ``Run.steps``.

    The loop runs in a generator that refers to this object: the run can end the step in progress from outside, and it
    ends by itself when the loop is left and the generator goes. What is known of it is kept in the step, which is at
    hand in the caches of the processor when the loop goes on: its user has just spoken to it.
    """

    __slots__ = (
        "__weakref__",
        "_accumulate",
        "_batches",
        "_commit",
        "_handle",
        "_loop",
        "_now",
        "_samples",
        "_step",
    )  # fmt: skip

    def __init__(
        self, run: Run, loader: Iterable[Any], accumulate: int, start: int | None, samples: int | None
    ) -> None:
        handle = run.handle
        self._handle, self._accumulate, self._samples = handle, accumulate, samples
        self._commit, self._now = handle.commit, run.runtime.clock.now
        self._batches = iter(loader)
        self._step = Step(run)
        self._step.number = start if start is not None else handle.next_number() - 1
        self._loop: Iterator[tuple[Any, Step]] | None = None
        _LOOPS.add(self)

    def __next__(self) -> tuple[Any, Step]:
        if self._loop is None:
            self._loop = iter(self)
        try:
            return next(self._loop)
        except BaseException:
            self._loop = None  # one that raised is at its end, but a loader that raised need not be
            raise

    def __iter__(self) -> Iterator[tuple[Any, Step]]:
        now, commit, step, handle = self._now, self._commit, self._step, self._handle
        owner = handle.owner
        buffer, full, fold = handle.direct()
        extend, length, kind_of, real = buffer.extend, len, type, float  # a local is found without looking it up
        known, alone = self._samples, self._accumulate == 1
        kind: Any = None  # of a batch that need only be asked for its length,
        other: Any = None  # and of one that must be looked into
        begun = seen = None
        number, wait_s = 0, 0.0
        asked_s = now()
        for batch in self._batches:
            arrived_s = now()
            if not alone and step._begun is not None:
                self._further(batch, arrived_s - asked_s)
            else:
                step.number = number = step.number + 1
                try:
                    seen = length(batch) if kind_of(batch) is kind else known
                except Exception:
                    seen = None
                if seen is None:
                    seen = size_of(batch)
                    if kind_of(batch) is not other:
                        kind, other = (kind_of(batch), None) if as_long(batch, seen) else (None, kind_of(batch))
                wait_s = arrived_s - asked_s
                step._begun = begun = (arrived_s, wait_s, seen)
            yield batch, step
            asked_s = now()
            given = step._given
            if alone and given is not None and step._begun is begun and not step._skipped:
                # What `_finish` does, without a call; it is another tuple when something was no part of the step.
                step._begun = step._given = None
                loss, learning_rate, gradient_norm, tokens, samples, metrics = given
                if samples is None:
                    samples = seen
                duration_s = asked_s - arrived_s
                if asked_s < handle.due_s and metrics is None and (kind_of(loss) is real or loss is None):
                    # What `commit` does, without a call.
                    extend((owner, duration_s, loss, learning_rate, gradient_norm, tokens, samples, number, wait_s))
                    if length(buffer) >= full:
                        fold()
                else:
                    commit(
                        asked_s,
                        duration_s,
                        loss,
                        learning_rate,
                        gradient_norm,
                        tokens,
                        samples,
                        number,
                        wait_s,
                        metrics,
                    )
            elif step._begun is not None and step.accumulated >= self._accumulate:
                self._finish(asked_s)
        if step._begun is not None:
            self._finish(asked_s)

    def _further(self, batch: Any, waited_s: float) -> None:
        """Take in another batch of the step in progress; the wait for it is none of its time."""
        assert self._step._begun is not None
        began_s, wait_s, seen = self._step._begun
        more = size_of(batch) if self._samples is None else self._samples
        self._step._begun = (began_s + waited_s, wait_s + waited_s, seen + more)
        self._step.accumulated += 1

    def exclude(self, aside_s: float) -> None:
        """Take seconds that were spent on something else out of the step in progress."""
        begun = self._step._begun
        if begun is not None:
            self._step._begun = (begun[0] + aside_s, *begun[1:])

    def leave(self) -> None:
        """End the step in progress, as the loop is over: it counts if something was logged."""
        if self._step._begun is not None and self._step._given is not None:
            self._finish(self._now())
        self._step._begun = None

    def forget(self) -> None:
        """Leave the step in progress to the process that began it; called in a forked child."""
        self._step._begun = self._step._given = None
        self._step.accumulated, self._step._skipped = 1, False

    def _finish(self, at_s: float) -> None:
        step = self._step
        begun, step._begun = step._begun, None
        loss, learning_rate, gradient_norm, tokens, samples, metrics = step._given or _NOTHING
        step._given = None
        step.accumulated = 1
        if step._skipped:
            step._skipped = False
            step.number -= 1
        elif begun is not None:
            began_s, wait_s, seen = begun
            seen = seen if samples is None else samples
            self._commit(
                at_s, at_s - began_s, loss, learning_rate, gradient_norm, tokens, seen, step.number, wait_s, metrics
            )

    def __del__(self) -> None:
        self.leave()


def as_long(batch: Any, size: int) -> bool:
    """Return whether the length of a batch of this type is its number of samples."""
    try:
        return bool(batch.shape) and len(batch) == size
    except Exception:
        return False


def _together(before: Given, more: Given) -> Given:
    *kept, tokens, samples, metrics = before
    loss, rate, norm, more_tokens, more_samples, more_metrics = more
    latest = [old if new is None else new for old, new in zip(kept, (loss, rate, norm), strict=True)]
    return (
        latest[0],
        latest[1],
        latest[2],
        _added(tokens, more_tokens),
        _added(samples, more_samples),
        _joined(metrics, more_metrics),
    )


def _added(before: Any, more: Any) -> Any:
    if before is None or more is None:
        return before if more is None else more
    try:
        return before + more
    except Exception:
        return more


def _joined(before: Any, more: Any) -> Any:
    if before is None or more is None:
        return before if more is None else more
    try:
        return {**before, **more}
    except Exception:
        return more


def size_of(batch: Any) -> int:
    """Return the number of samples in a batch: the first dimension of its first array, or its length; 0 if unknown.

    A tuple or map, also a nested one, is asked for its first member; a list of what is no array is a list of samples.
    """
    try:
        if type(batch) is list:
            shape = getattr(batch[0], "shape", None)
            return int(shape[0]) if shape else len(batch)
        first = batch
        for _ in range(_NESTED):
            shape = getattr(first, "shape", None)
            if shape is not None:
                return int(shape[0]) if len(shape) else 1
            if isinstance(first, tuple):
                first = first[0]
            elif isinstance(first, Mapping):
                first = next(iter(first.values()))
            else:
                break
        return len(first) if hasattr(first, "__len__") else len(batch)
    except Exception:
        return 0


_LOOPS: weakref.WeakSet[Steps] = weakref.WeakSet()


def _after_fork() -> None:
    for loop in list(_LOOPS):
        loop.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
