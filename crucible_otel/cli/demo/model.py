"""The model: a multilayer perceptron, in PyTorch where it is installed, else in NumPy with its own backpropagation."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any, Protocol

from crucible_otel.cli.demo.data import CLASSES, PIXELS

WIDTHS = (PIXELS, 1024, 512, CLASSES)
PEAK_LEARNING_RATE = 0.1
MOMENTUM = 0.9
LARGEST_GRADIENT_NORM = 5.0
_WARM_UP = 0.1


class Model(Protocol):
    """What the story asks of a model.

    Attributes:
        name: What it is called in telemetry.
        library: What it is made with.
        file_suffix: What its checkpoints end in.
    """

    name: str
    library: str
    file_suffix: str

    def train_step(self, images: Any, labels: Any, learning_rate: float) -> tuple[Any, Any, Any]:
        """Make one step; returns mean loss, how many were right, and the norm of the gradient before clipping."""

    def evaluate(self, images: Any, labels: Any) -> tuple[float, float]:
        """Return mean loss and accuracy."""

    def save(self, path: Path) -> None:
        """Write the parameters to a file."""


def make(seed: int) -> Model:
    """Make the model; the same seed gives the same parameters."""
    if importlib.util.find_spec("torch") is not None:
        from crucible_otel.cli.demo.model_torch import TorchPerceptron

        return TorchPerceptron(WIDTHS, seed)
    from crucible_otel.cli.demo.model_numpy import NumpyPerceptron

    return NumpyPerceptron(WIDTHS, seed)


def learning_rate(step: int, total_steps: int) -> float:
    """Return the rate of a step, counted from 1: up in a straight line, then down by half a cosine."""
    warm_up = max(1, round(total_steps * _WARM_UP))
    if step <= warm_up:
        return PEAK_LEARNING_RATE * step / warm_up
    progress = (step - warm_up) / (total_steps - warm_up + 1)
    return PEAK_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * progress))
