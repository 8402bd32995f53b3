"""The curves of a run, out of the events that tell of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible_otel.semconv.registry import EVENTS
from crucible_otel.semconv.training import EPOCH_OPERATION, EVALUATION_OPERATION, STEP_EVENT
from crucible_otel.testing.records import ReceivedLog

Named = tuple[str, Mapping[str, Any]]
"""The name of an event, and its values by field."""

Curve = dict[int, float]
"""Step -> value."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Values by training step.

    Attributes:
        loss: Of each step whose event arrived.
        learning_rate: Likewise.
        gradient_norm: Likewise.
        epoch_loss: Mean of each epoch, at its last step.
        epoch_accuracy: Likewise.
        evaluation: Part of the data -> name of the value -> curve.
    """

    loss: Curve = field(default_factory=dict)
    learning_rate: Curve = field(default_factory=dict)
    gradient_norm: Curve = field(default_factory=dict)
    epoch_loss: Curve = field(default_factory=dict)
    epoch_accuracy: Curve = field(default_factory=dict)
    evaluation: dict[str, dict[str, Curve]] = field(default_factory=dict)


def from_logs(logs: Iterable[ReceivedLog]) -> Curves:
    """Draw them from received log events."""
    return _curves(_by_field(log) for log in sorted(logs, key=lambda log: log.time_ns) if log.event_name in EVENTS)


def from_jsonl(path: Path) -> Curves:
    """Draw them from the file of the handler ``jsonl``; without events there is none."""
    if not path.exists():
        return Curves()
    with path.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return _curves((each["event"], {**each["measurements"], **each["metadata"]}) for each in records)


def _by_field(log: ReceivedLog) -> Named:
    fields = EVENTS[log.event_name].fields
    return log.event_name, {
        each.name: log.attributes[each.attribute] for each in fields if each.attribute in log.attributes
    }


def _curves(events: Iterable[Named]) -> Curves:
    curves = Curves()
    step = 0
    for name, values in events:
        if name == STEP_EVENT.name:
            step = int(values["step"])
            _put(values, step, loss=curves.loss, learning_rate=curves.learning_rate, gradient_norm=curves.gradient_norm)
        elif name == EPOCH_OPERATION.stop.name:
            _put(values, step, loss=curves.epoch_loss, accuracy=curves.epoch_accuracy)
        elif name == EVALUATION_OPERATION.stop.name:
            split = curves.evaluation.setdefault(str(values.get("split")), {})
            for key, value in _numbers(values.get("metrics")):
                split.setdefault(key, {})[int(values.get("step", step))] = value
    return curves


def _put(values: Mapping[str, Any], step: int, **curves: Curve) -> None:
    for name, curve in curves.items():
        if isinstance(values.get(name), int | float):
            curve[step] = float(values[name])


def _numbers(metrics: object) -> Iterator[tuple[str, float]]:
    found = json.loads(metrics) if isinstance(metrics, str) else metrics
    for name, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, int | float):
            yield name, float(value)
