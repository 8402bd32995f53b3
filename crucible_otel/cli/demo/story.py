"""The program that is watched: what a training script looks like with telemetry in it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import crucible_otel as cx
from crucible_otel.cli.demo import data
from crucible_otel.cli.demo.model import Model, learning_rate


@dataclass(frozen=True, kw_only=True)
class Story:
    """What the program made, as it knows itself.

    Attributes:
        steps: Training steps.
        samples: Samples trained on.
        checkpoints: The files, in the order they were written.
        test_loss: Loss on the test part, at the end.
        test_accuracy: Accuracy on it.
    """

    steps: int
    samples: int
    checkpoints: tuple[Path, ...]
    test_loss: float
    test_accuracy: float


def tell(model: Model, *, epochs: int, batch_size: int, seed: int, folder: Path) -> Story:
    """Train on the digits.

    Args:
        model: What is trained.
        epochs: Passes over the data.
        batch_size: Samples in a step.
        seed: What everything random depends on.
        folder: Where the checkpoints go.
    """
    steps = samples = 0
    saved: list[Path] = []

    with cx.workflow("digits", tags={"seed": seed, "batch_size": batch_size}):
        with cx.stage("load_dataset"):
            began = time.perf_counter()
            digits = data.load(seed)
            took_s = time.perf_counter() - began
            cx.dataset.load("digits", size=len(digits), size_bytes=digits.size_bytes, duration_s=took_s)

        loaders = [data.Loader(digits.train, batch_size, (seed, number)) for number in range(1, epochs + 1)]
        total_steps = sum(map(len, loaders))

        with (
            cx.stage("train"),
            cx.train(model.name, total_steps=total_steps, total_epochs=epochs) as run,
        ):
            for number, loader in enumerate(loaders, start=1):
                with run.epoch(number) as epoch:
                    loss_sum, right = 0.0, 0
                    for (images, labels), step in run.steps(loader):
                        rate = learning_rate(step.number, total_steps)
                        loss, hits, norm = model.train_step(images, labels, rate)
                        step.log(loss=loss, learning_rate=rate, gradient_norm=norm)
                        loss_sum, right = loss_sum + loss * len(labels), right + hits
                        steps, samples = steps + 1, samples + len(labels)
                    epoch.log(loss=loss_sum / len(digits.train), accuracy=right / len(digits.train))

                    with run.evaluate("validation") as evaluation:
                        loss, accuracy = model.evaluate(digits.validation.images, digits.validation.labels)
                        evaluation.log(loss=loss, accuracy=accuracy)

                    path = folder / f"epoch_{number}{model.file_suffix}"
                    with run.checkpoint(f"epoch_{number}", path=path):
                        model.save(path)
                    saved.append(path)

        with cx.stage("evaluate"), run.evaluate("test", model=model.name) as evaluation:
            loss, accuracy = model.evaluate(digits.test.images, digits.test.labels)
            evaluation.log(loss=loss, accuracy=accuracy)

    return Story(steps=steps, samples=samples, checkpoints=tuple(saved), test_loss=loss, test_accuracy=accuracy)
