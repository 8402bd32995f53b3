"""A real training step: a perceptron with one hidden layer in NumPy, its batch as large as the wanted time asks."""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time_ns

import numpy as np

Train = Callable[[], tuple[float, float]]
"""Makes one step; returns the loss and the norm of the gradient."""

_INPUTS, _HIDDEN, _CLASSES, _RATE = 128, 256, 10, 1e-3


def perceptron(examples: int) -> Train:
    """Return a training step over a batch of so many examples."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    first, second, inputs = normal(_INPUTS, _HIDDEN) * 0.05, normal(_HIDDEN, _CLASSES) * 0.05, normal(examples, _INPUTS)
    labels, each = random.integers(0, _CLASSES, examples), np.arange(examples)

    def step() -> tuple[float, float]:
        hidden = inputs @ first
        active = np.maximum(hidden, 0)
        scores = active @ second
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        loss = -np.log(odds[each, labels] + 1e-9).mean()
        odds[each, labels] -= 1
        odds /= examples
        to_second = active.T @ odds
        to_first = inputs.T @ ((odds @ second.T) * (hidden > 0))
        norm = np.sqrt((to_first * to_first).sum() + (to_second * to_second).sum())
        np.subtract(first, _RATE * to_first, out=first)
        np.subtract(second, _RATE * to_second, out=second)
        return float(loss), float(norm)

    return step


def of_at_least(milliseconds: float) -> tuple[Train, int]:
    """Return a training step that takes this much CPU time, just about, and the examples of its batch."""
    examples = 64
    while True:
        step = perceptron(examples)
        took_ms = min(_timed(step) for _ in range(9)) / 1e6
        if took_ms >= milliseconds:
            return step, examples
        examples = int(examples * max(1.05, min(2.0, milliseconds / took_ms))) + 1


def _timed(step: Train) -> int:
    begun = thread_time_ns()
    step()
    return thread_time_ns() - begun
