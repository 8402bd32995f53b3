"""The perceptron in PyTorch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - loaded by the demo alone, where PyTorch is installed

from crucible_otel.cli.demo.model import LARGEST_GRADIENT_NORM, MOMENTUM


class TorchPerceptron:
    """Linear layers with ReLU between them, cross-entropy, and gradient descent with momentum; on the CPU.

    Losses and norms stay tensors: telemetry takes them as they are.

    Args:
        widths: Widths of the layers, the input's first.
        seed: What the first parameters depend on.
    """

    name = "digits-mlp"
    library = f"PyTorch {torch.__version__}"
    file_suffix = ".pt"

    def __init__(self, widths: tuple[int, ...], seed: int) -> None:
        torch.manual_seed(seed)
        layers = [part for pair in pairwise(widths) for part in (torch.nn.Linear(*pair), torch.nn.ReLU())]
        self._net = torch.nn.Sequential(*layers[:-1])
        self._loss = torch.nn.CrossEntropyLoss()
        self._optimizer = torch.optim.SGD(self._net.parameters(), lr=0.0, momentum=MOMENTUM)

    def train_step(self, images: Any, labels: Any, learning_rate: float) -> tuple[Any, Any, Any]:
        """Make one step."""
        target = torch.from_numpy(labels)
        scores = self._net(torch.from_numpy(images))
        loss = self._loss(scores, target)
        self._optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._net.parameters(), LARGEST_GRADIENT_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        return loss.detach(), (scores.argmax(1) == target).sum(), norm

    def evaluate(self, images: Any, labels: Any) -> tuple[float, float]:
        """Return mean loss and accuracy."""
        target = torch.from_numpy(labels)
        with torch.inference_mode():
            scores = self._net(torch.from_numpy(images))
            return float(self._loss(scores, target)), float((scores.argmax(1) == target).float().mean())

    def save(self, path: Path) -> None:
        """Write the parameters to a .pt file."""
        torch.save(self._net.state_dict(), path)
