"""Handwritten digits, 8 by 8 pixels, bundled with scikit-learn: no download."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np  # noqa: TID253 - loaded by the demo alone, which has looked for it
from sklearn.datasets import load_digits  # noqa: TID253 - as above
from sklearn.model_selection import train_test_split  # noqa: TID253 - as above

SIDE = 8
PIXELS = SIDE * SIDE
CLASSES = 10
SAMPLES = 1257
"""To train on: 70 % of 1797."""

_HELD_OUT = 0.15
_MOVED = 0.3
_NOISE = 0.05


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of the data.

    Attributes:
        images: float32, (samples, 64), 0 to 1.
        labels: int64, (samples,).
    """

    images: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Digits:
    """The data set in three parts."""

    train: Split
    validation: Split
    test: Split

    def __len__(self) -> int:
        return len(self.train) + len(self.validation) + len(self.test)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        parts = (self.train, self.validation, self.test)
        return sum(int(part.images.nbytes + part.labels.nbytes) for part in parts)


def load(seed: int) -> Digits:
    """Load the digits and divide them: 70 % to train on, 15 % each to validate and test."""
    bunch = load_digits()
    images = (bunch.data / 16).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    split = {"random_state": seed, "stratify": labels, "test_size": 2 * _HELD_OUT}
    images, other_images, labels, other_labels = train_test_split(images, labels, **split)
    split |= {"stratify": other_labels, "test_size": 0.5}
    valid_images, test_images, valid_labels, test_labels = train_test_split(other_images, other_labels, **split)
    return Digits(
        train=Split(images=images, labels=labels),
        validation=Split(images=valid_images, labels=valid_labels),
        test=Split(images=test_images, labels=test_labels),
    )


class Loader:
    """Batches of a part in a new order, all images made a little noisy and some moved by up to a pixel.

    Args:
        split: The part.
        batch_size: Samples in a batch; the last one may have fewer.
        seed: What order and changes depend on.
    """

    def __init__(self, split: Split, batch_size: int, seed: tuple[int, ...]) -> None:
        self._split, self._batch_size, self._seed = split, batch_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self._split) / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        random = np.random.default_rng(self._seed)
        square = self._split.images.reshape(-1, SIDE, SIDE)
        padded = np.pad(square, ((0, 0), (1, 1), (1, 1)))
        order = random.permutation(len(self._split))
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            yield _moved(padded, chosen, random), self._split.labels[chosen]


def _moved(padded: Any, chosen: Any, random: Any) -> Any:
    count = len(chosen)
    places = np.arange(SIDE)
    moved = random.random((count, 1, 1)) < _MOVED
    rows = places[:, None] + np.where(moved, random.integers(0, 3, (count, 1, 1)), 1)
    columns = places + np.where(moved, random.integers(0, 3, (count, 1, 1)), 1)
    images = padded[chosen[:, None, None], rows, columns].reshape(count, PIXELS)
    return images + random.normal(0, _NOISE, images.shape).astype(np.float32)
