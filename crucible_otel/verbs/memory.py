"""Memory: ``cx.memory.allocate`` and ``cx.memory.release``."""

from __future__ import annotations

from typing import Any

from crucible_otel.otel.labels import device_label
from crucible_otel.semconv.memory import ALLOCATE_EVENT, RELEASE_EVENT
from crucible_otel.semconv.model import Event
from crucible_otel.verbs.given import quietly, whole
from crucible_otel.verbs.hot import record

__all__ = ["allocate", "release"]

_CPU, _GPU = "cpu", "gpu"


@quietly
def allocate(nbytes: int, *, type: str | None = None, device: object = None) -> None:
    """Report that memory was allocated: it is in use until as much is released with the same type and device.

    Args:
        nbytes: Bytes.
        type: Kind of memory: ``cpu`` or ``gpu``; when left out what the device says, ``cpu`` without one.
        device: Where: ``cuda:0``, ``("cuda", 0)``, 0 or a framework's own device.
    """
    _report(ALLOCATE_EVENT, nbytes, type, device, "memory.allocate(nbytes)")


@quietly
def release(nbytes: int, *, type: str | None = None, device: object = None) -> None:
    """Report that memory was released.

    Args:
        nbytes: Bytes.
        type: Kind of memory, as it was allocated.
        device: Where, as it was allocated.
    """
    _report(RELEASE_EVENT, nbytes, type, device, "memory.release(nbytes)")


def _report(event: Event, nbytes: Any, type: object, device: object, what: str) -> None:
    size = whole(nbytes, what, least=0)
    if size is None:
        return
    if type is None:
        type = _CPU if device is None or device_label(device).startswith(_CPU) else _GPU
    record(event, {"bytes": size}, {"type": type, "device": device})
