"""OpenTelemetry-native instrumentation for AI and ML work.

    import crucible_otel as cx

    cx.configure()
    with cx.workflow("finetune"), cx.stage("train"), cx.train("llama-tiny") as run:
        for epoch in run.epochs(3):
            for batch, step in run.steps(loader):
                step.log(loss=train_step(batch))

Names are loaded when they are first used, so that importing this module costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crucible_otel import events as events
    from crucible_otel import gpu as gpu
    from crucible_otel._setup import Telemetry as Telemetry
    from crucible_otel._setup import attach as attach
    from crucible_otel._setup import configure as configure
    from crucible_otel.config.settings import Settings as Settings
    from crucible_otel.errors import ConfigurationError as ConfigurationError
    from crucible_otel.errors import CrucibleOtelError as CrucibleOtelError
    from crucible_otel.errors import DuplicateHandlerError as DuplicateHandlerError
    from crucible_otel.errors import MissingExtraError as MissingExtraError
    from crucible_otel.errors import UnknownHandlerError as UnknownHandlerError
    from crucible_otel.errors import UnknownNameError as UnknownNameError
    from crucible_otel.verbs import dataset as dataset
    from crucible_otel.verbs import future as future
    from crucible_otel.verbs import memory as memory
    from crucible_otel.verbs import serialization as serialization
    from crucible_otel.verbs import snakepit as snakepit
    from crucible_otel.verbs.attaching import attach_handler as attach_handler
    from crucible_otel.verbs.attaching import detach as detach
    from crucible_otel.verbs.attaching import handlers as handlers
    from crucible_otel.verbs.call import call as call
    from crucible_otel.verbs.emit import emit_checkpoint as emit_checkpoint
    from crucible_otel.verbs.emit import emit_dataset_batch as emit_dataset_batch
    from crucible_otel.verbs.emit import emit_dataset_load as emit_dataset_load
    from crucible_otel.verbs.emit import emit_epoch as emit_epoch
    from crucible_otel.verbs.emit import emit_evaluation as emit_evaluation
    from crucible_otel.verbs.emit import emit_step as emit_step
    from crucible_otel.verbs.emit import execute as execute
    from crucible_otel.verbs.inference import inference as inference
    from crucible_otel.verbs.pool import pool as pool
    from crucible_otel.verbs.spans import end_span as end_span
    from crucible_otel.verbs.spans import span as span
    from crucible_otel.verbs.spans import start_span as start_span
    from crucible_otel.verbs.tensor import tensor_op as tensor_op
    from crucible_otel.verbs.training import current_run as current_run
    from crucible_otel.verbs.training import train as train
    from crucible_otel.verbs.workflow import stage as stage
    from crucible_otel.verbs.workflow import workflow as workflow

_HOMES = {
    "ConfigurationError": "errors",
    "CrucibleOtelError": "errors",
    "DuplicateHandlerError": "errors",
    "MissingExtraError": "errors",
    "Settings": "config.settings",
    "Telemetry": "_setup",
    "UnknownHandlerError": "errors",
    "UnknownNameError": "errors",
    "attach": "_setup",
    "attach_handler": "verbs.attaching",
    "call": "verbs.call",
    "configure": "_setup",
    "current_run": "verbs.training",
    "dataset": "verbs.dataset:",
    "detach": "verbs.attaching",
    "emit_checkpoint": "verbs.emit",
    "emit_dataset_batch": "verbs.emit",
    "emit_dataset_load": "verbs.emit",
    "emit_epoch": "verbs.emit",
    "emit_evaluation": "verbs.emit",
    "emit_step": "verbs.emit",
    "end_span": "verbs.spans",
    "events": "events:",
    "execute": "verbs.emit",
    "future": "verbs.future:",
    "gpu": "gpu:",
    "handlers": "verbs.attaching",
    "inference": "verbs.inference",
    "memory": "verbs.memory:",
    "pool": "verbs.pool",
    "serialization": "verbs.serialization:",
    "snakepit": "verbs.snakepit:",
    "span": "verbs.spans",
    "stage": "verbs.workflow",
    "start_span": "verbs.spans",
    "tensor_op": "verbs.tensor",
    "train": "verbs.training",
    "workflow": "verbs.workflow",
}
"""Name -> the module it lives in; a colon at the end makes it the module itself."""

__all__ = [
    "ConfigurationError",
    "CrucibleOtelError",
    "DuplicateHandlerError",
    "MissingExtraError",
    "Settings",
    "Telemetry",
    "UnknownHandlerError",
    "UnknownNameError",
    "attach",
    "attach_handler",
    "call",
    "configure",
    "current_run",
    "dataset",
    "detach",
    "emit_checkpoint",
    "emit_dataset_batch",
    "emit_dataset_load",
    "emit_epoch",
    "emit_evaluation",
    "emit_step",
    "end_span",
    "events",
    "execute",
    "future",
    "gpu",
    "handlers",
    "inference",
    "memory",
    "pool",
    "serialization",
    "snakepit",
    "span",
    "stage",
    "start_span",
    "tensor_op",
    "train",
    "workflow",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("crucible-otel")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # With configure() come all the others: a child that is forked while another thread imports a module would wait
    # forever for that thread if it had to import the module itself. So the GPUs' names come without a driver too: a
    # program that measures a scope of theirs runs there as well.
    for each in __all__ if home == "_setup" else (name,):
        home = _HOMES[each]
        module = importlib.import_module(f"{__name__}.{home.rstrip(':')}")
        globals()[each] = module if home.endswith(":") else getattr(module, each)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
