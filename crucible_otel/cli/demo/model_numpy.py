"""The perceptron in NumPy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np  # noqa: TID253 - loaded by the demo alone, which has looked for it

from crucible_otel.cli.demo.model import LARGEST_GRADIENT_NORM, MOMENTUM


class NumpyPerceptron:
    """Linear layers with ReLU between them, cross-entropy, and gradient descent with momentum.

    Args:
        widths: Widths of the layers, the input's first.
        seed: What the first parameters depend on.
    """

    name = "digits-mlp"
    library = "NumPy"
    file_suffix = ".npz"

    def __init__(self, widths: tuple[int, ...], seed: int) -> None:
        random = np.random.default_rng(seed)
        self._weights = [
            (random.standard_normal((above, below)) * np.sqrt(2 / above)).astype(np.float32)
            for above, below in pairwise(widths)
        ]
        self._biases: list[Any] = [np.zeros(width, np.float32) for width in widths[1:]]
        self._velocities = [np.zeros_like(each) for each in self._parameters()]

    def train_step(self, images: Any, labels: Any, learning_rate: float) -> tuple[float, int, float]:
        """Make one step."""
        layers = self._forward(images)
        losses, probabilities = _cross_entropy(layers[-1], labels)
        right = int((layers[-1].argmax(1) == labels).sum())
        gradients = self._backward(layers, probabilities, labels)
        norm = float(np.sqrt(sum(float((each * each).sum()) for each in gradients)))
        scale = np.float32(min(1.0, LARGEST_GRADIENT_NORM / (norm + 1e-12)))
        for parameter, velocity, gradient in zip(self._parameters(), self._velocities, gradients, strict=True):
            velocity *= MOMENTUM
            velocity += scale * gradient
            parameter -= np.float32(learning_rate) * velocity
        return float(losses.mean()), right, norm

    def evaluate(self, images: Any, labels: Any) -> tuple[float, float]:
        """Return mean loss and accuracy."""
        scores = self._forward(images)[-1]
        return float(_cross_entropy(scores, labels)[0].mean()), float((scores.argmax(1) == labels).mean())

    def save(self, path: Path) -> None:
        """Write the parameters to an .npz file."""
        named: dict[str, Any] = {f"weight_{index}": each for index, each in enumerate(self._weights)}
        named |= {f"bias_{index}": each for index, each in enumerate(self._biases)}
        np.savez(path, **named)

    def _parameters(self) -> list[Any]:
        return [*self._weights, *self._biases]

    def _forward(self, images: Any) -> list[Any]:
        """Return the input, each hidden layer, and the scores."""
        layers = [images]
        for weights, biases in zip(self._weights[:-1], self._biases[:-1], strict=True):
            layers.append(np.maximum(layers[-1] @ weights + biases, 0))
        return [*layers, layers[-1] @ self._weights[-1] + self._biases[-1]]

    def _backward(self, layers: list[Any], probabilities: Any, labels: Any) -> list[Any]:
        error = probabilities.copy()
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        weights, biases = [], []
        for index in reversed(range(len(self._weights))):
            below = layers[index]
            weights.append(below.T @ error)
            biases.append(error.sum(0))
            if index:
                error = (error @ self._weights[index].T) * (below > 0)
        return [*reversed(weights), *reversed(biases)]


def _cross_entropy(scores: Any, labels: Any) -> tuple[Any, Any]:
    """Return the loss of each sample, and the probabilities."""
    shifted = scores - scores.max(1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -logarithms[np.arange(len(labels)), labels], np.exp(logarithms)
