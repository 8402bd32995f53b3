"""The loop over training steps: measures the wait for data and the step, at the price of two clock reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crucible_otel.verbs.run import Run

_NESTED = 4


class Step:
    """The step in progress; valid until the next iteration.

    Attributes:
        number: Its number, counted from the run's ``start_step``; the first one is ``start_step + 1``.
        accumulated: Which of its batches this is, from 1.
    """

    __slots__ = (
        "_gradient_norm", "_learning_rate", "_logged", "_loss", "_metrics", "_run", "_samples", "_skipped", "_tokens",
        "accumulated", "number",
    )  # fmt: skip

    def __init__(self, run: Run) -> None:
        self._run, self.number, self.accumulated = run, 0, 1
        self._reset()

    def _reset(self) -> None:
        self._loss = self._learning_rate = self._gradient_norm = self._metrics = self._tokens = self._samples = None
        self._logged = self._skipped = False

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
        self._logged = True
        if loss is not None:
            self._loss = loss
        if learning_rate is not None:
            self._learning_rate = learning_rate
        if gradient_norm is not None:
            self._gradient_norm = gradient_norm
        if tokens is not None:
            self._tokens = tokens if self._tokens is None else _added(self._tokens, tokens)
        if samples is not None:
            self._samples = samples if self._samples is None else _added(self._samples, samples)
        if metrics is not None:
            self._metrics = metrics if self._metrics is None else _joined(self._metrics, metrics)

    def skip(self, reason: str = "user") -> None:
        """Say that the optimizer step was not made: it is counted as skipped, and the next one gets its number."""
        self._skipped = True
        self._run.skip(reason, step=self.number)


class Steps:
    """Iterator over ``(batch, step)``; see ``Run.steps``."""

    __slots__ = (
        "__weakref__",
        "_accumulate",
        "_began_s",
        "_commit",
        "_excluded_s",
        "_get",
        "_now",
        "_open",
        "_run",
        "_samples",
        "_seen_samples",
        "_step",
        "_wait_s",
    )  # fmt: skip

    def __init__(
        self, run: Run, loader: Iterable[Any], accumulate: int, start: int | None, samples: int | None
    ) -> None:
        self._open = False
        handle = run.handle
        self._run, self._accumulate, self._samples = run, accumulate, samples
        self._commit, self._now = handle.commit, run.runtime.clock.now
        self._get: Callable[[], Any] = iter(loader).__next__
        self._step = Step(run)
        self._step.number = start if start is not None else handle.next_number() - 1
        self._wait_s = self._began_s = self._excluded_s = 0.0
        self._seen_samples: Any = 0

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> tuple[Any, Step]:
        step, asked_s = self._step, self._now()
        if self._open:
            if step.accumulated < self._accumulate:
                try:
                    batch = self._get()
                except StopIteration:
                    self._finish(asked_s)
                    raise
                waited_s = self._now() - asked_s
                self._wait_s += waited_s
                self._excluded_s -= waited_s
                step.accumulated += 1
                self._seen_samples += self._samples if self._samples is not None else size_of(batch)
                return batch, step
            self._finish(asked_s)
        batch = self._get()
        step.number += 1
        self._began_s = arrived_s = self._now()
        self._wait_s = arrived_s - asked_s
        self._excluded_s = self._run.excluded_s
        self._seen_samples = self._samples if self._samples is not None else size_of(batch)
        self._open = True
        return batch, step

    def leave(self) -> None:
        """End the step in progress, as the loop is over: it counts if something was logged."""
        if self._open and self._step._logged:
            self._finish(self._now())
        self._open = False

    def _finish(self, at_s: float) -> None:
        self._open = False
        step = self._step
        if step._skipped:
            step.number -= 1
        else:
            self._commit(
                at_s,
                at_s - self._began_s - (self._run.excluded_s - self._excluded_s),
                step._loss,
                step._learning_rate,
                step._gradient_norm,
                step._tokens,
                self._seen_samples if step._samples is None else step._samples,
                step.number,
                self._wait_s,
                step._metrics,
            )
        step.accumulated = 1
        if step._logged or step._skipped:
            step._reset()

    def __del__(self) -> None:
        self.leave()


def _added(before: Any, more: Any) -> Any:
    try:
        return before + more
    except Exception:
        return more


def _joined(before: Any, more: Any) -> Any:
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
