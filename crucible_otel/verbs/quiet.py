"""What stands in for every verb's object while telemetry is switched off.

It does nothing, at the price of a call, but programs that go by it take the same course: loops run as often, steps
and epochs have their numbers, a workflow has its run id.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from types import MappingProxyType
from typing import Any, TypeVar

from crucible_otel.verbs.epochs import Epoch, planned
from crucible_otel.verbs.given import whole

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
_RUN_ID_BYTES = 8


def nothing(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""
    return None


def no_step(
    loss: Any = None,
    learning_rate: Any = None,
    gradient_norm: Any = None,
    tokens: Any = 0,
    samples: Any = 0,
    step: Any = None,
    data_wait: Any = None,
    metrics: Any = None,
) -> None:
    """Record no step; its parameters are spelled out, because collecting them costs more than the call."""


class Nothing:
    """An operation, an evaluation, a checkpoint, a pause that is none."""

    scope = None
    fields: Mapping[str, Any] = MappingProxyType({})
    set = skip = fail = log = staticmethod(nothing)

    def __enter__(self: N) -> N:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    async def __aenter__(self: N) -> N:
        """Do nothing."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Do nothing."""

    def __call__(self, function: F) -> F:
        """Return the function as it is."""
        return function

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        """Iterate over the batches."""
        return iter(loader)


N = TypeVar("N", bound=Nothing)
NOTHING = Nothing()


class QuietWorkflow(Nothing):
    """A workflow that only has its run id."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    @property
    def run_id(self) -> str:
        """Identity of this run."""
        if not self._run_id:
            self._run_id = new_run_id()
        return self._run_id


class QuietCall(Nothing):
    """A call that is only made."""

    timing = io = record = staticmethod(nothing)

    def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call the function."""
        return function(*args, **kwargs)


QUIET_CALL = QuietCall()


class QuietInference(Nothing):
    """An inference that is only made."""

    tokens = staticmethod(nothing)


QUIET_INFERENCE = QuietInference()


class QuietPoll(Nothing):
    """The polling of a future that nobody counts."""

    iteration = staticmethod(nothing)


QUIET_POLL = QuietPoll()


class QuietCheckout(Nothing):
    """A worker in use that nobody counts."""

    acquired = staticmethod(nothing)

    def __init__(self, worker_id: object) -> None:
        self.worker_id = worker_id


class QuietPool:
    """A pool that only has its name."""

    size = staticmethod(nothing)

    def __init__(self, name: str) -> None:
        self.name = name

    def checkout(
        self, worker_id: object = None, *, wait_s: float | None = None, waiting: bool = False
    ) -> QuietCheckout:
        """Do nothing."""
        return QuietCheckout(worker_id)


class QuietStep:
    """A step that only has its number."""

    __slots__ = ("_logged", "_skipped", "accumulated", "number")

    def __init__(self, number: int) -> None:
        self.number, self.accumulated = number, 1
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
        """Remember that it was made."""
        self._logged = True

    def skip(self, reason: str = "") -> None:
        """Remember that it was not made."""
        self._skipped = True


class QuietRun:
    """A training run that only counts."""

    scope = None
    step = staticmethod(no_step)
    finish = skip = evaluation = checkpoint_saved = staticmethod(nothing)

    def __init__(self, model: str, total_epochs: int | None, start_step: int) -> None:
        self.model, self._total_epochs, self._reached = model, total_epochs, start_step

    def start(self) -> QuietRun:
        """Do nothing."""
        return self

    __enter__ = start

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def epochs(self, total: int | None = None, *, start: int = 0) -> Iterator[Epoch]:
        """Iterate over the numbers of the epochs."""
        first, end = whole(start, "run.epochs(start)") or 0, planned(total, self._total_epochs)
        return map(Epoch, count(first) if end is None else range(first, end))

    def epoch(self, number: int) -> contextlib.AbstractContextManager[Epoch]:
        """Give the number of the epoch."""
        return contextlib.nullcontext(Epoch(whole(number, "run.epoch(number)") or 0))

    def steps(
        self, loader: Iterable[T], *, accumulate: int = 1, start: int | None = None, samples: object = None
    ) -> Iterator[tuple[T, QuietStep]]:
        """Iterate over the batches, and count."""
        begin = whole(start, "run.steps(start)")
        step = QuietStep(self._reached if begin is None else begin)
        return self._counted(iter(loader), step, whole(accumulate, "run.steps(accumulate)", least=1) or 1)

    def _counted(self, batches: Iterator[T], step: QuietStep, accumulate: int) -> Iterator[tuple[T, QuietStep]]:
        made = False
        try:
            for index, batch in enumerate(batches):
                if index % accumulate:
                    step.accumulated += 1
                else:
                    self._reached = step.number = step.number - step._skipped
                    step.number, step.accumulated = step.number + 1, 1
                    step._logged = step._skipped = False
                yield batch, step
            made = True
        finally:
            if (made or step._logged) and not step._skipped:
                self._reached = step.number

    def evaluate(self, split: str = "validation", **fields: Any) -> Nothing:
        """Do nothing."""
        return NOTHING

    def checkpoint(self, name: str, **fields: Any) -> Nothing:
        """Do nothing."""
        return NOTHING

    def pause(self) -> Nothing:
        """Do nothing."""
        return NOTHING

    def reached(self) -> int | None:
        """Return the number of the last step of a loop, None before the first."""
        return self._reached or None


def new_run_id() -> str:
    """Return the identity of a new run."""
    return secrets.token_hex(_RUN_ID_BYTES)
