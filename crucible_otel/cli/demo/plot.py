"""The picture of the curves."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crucible_otel.cli.demo.curves import Curve, Curves
from crucible_otel.errors import MissingExtraError

_TRAIN, _VALIDATION, _TEST, _QUIET = "#1f6feb", "#d1570f", "#1a7f37", "#8c959f"


def draw(curves: Curves, path: Path, *, source: str) -> str:
    """Draw loss, accuracy and learning rate over the steps.

    Args:
        curves: What is drawn.
        path: The PNG file.
        source: Where the curves come from, in words.

    Returns:
        Why it was not drawn; empty when it was.
    """
    if not curves.loss:
        return "none, no event of a training step is there to draw"
    if importlib.util.find_spec("matplotlib") is None:
        return f"none, {MissingExtraError('matplotlib', 'demo')}"
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3)
    _lines(loss, curves.loss, "train, each step", color=_TRAIN, alpha=0.35, linewidth=1)
    _lines(loss, curves.epoch_loss, "train, mean of the epoch", color=_TRAIN, marker="o")
    _lines(accuracy, curves.epoch_accuracy, "train", color=_TRAIN, marker="o")
    for split, color in (("validation", _VALIDATION), ("test", _TEST)):
        values: Mapping[str, Curve] = curves.evaluation.get(split, {})
        style = {"marker": "s"} if split == "validation" else {"marker": "*", "markersize": 11, "linestyle": "none"}
        _lines(loss, values.get("loss", {}), split, color=color, **style)
        _lines(accuracy, values.get("accuracy", {}), split, color=color, **style)
    loss.set_ylim(bottom=0)
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _lines(rate, curves.learning_rate, "learning rate", color=_TEST)
    norm = rate.twinx()
    _lines(norm, curves.gradient_norm, "gradient norm", color=_QUIET, alpha=0.7, linewidth=1)
    norm.set_ylabel("gradient norm")
    norm.set_ylim(bottom=0)
    rate.set_ylim(bottom=0)
    for axes, title, label in (
        (loss, "Loss", "cross-entropy"),
        (accuracy, "Accuracy", "share of the samples"),
        (rate, "Learning rate and gradient norm", "learning rate"),
    ):
        axes.set(title=title, xlabel="training step", ylabel=label)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        axes.spines["top"].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        if axes is rate:
            more_handles, more_labels = norm.get_legend_handles_labels()
            handles, labels = handles + more_handles, labels + more_labels
        if handles:
            axes.legend(handles, labels, frameon=False)
    norm.spines["top"].set_visible(False)
    figure.suptitle(f"digits, drawn from {source}", fontsize=10, color=_QUIET)
    figure.savefig(path, dpi=120)
    return ""


def _lines(axes: Any, curve: Curve, label: str, **style: Any) -> None:
    if curve:
        axes.plot(list(curve), list(curve.values()), label=label, **style)
