"""What the sampler finds, told on the bus: samples to whoever subscribes, losses and XIDs also to the log."""

from __future__ import annotations

from typing import Any

from crucible_otel.events.outcome import type_name
from crucible_otel.events.runtime import Runtime, runtime
from crucible_otel.events.scope import Scope
from crucible_otel.gpu.snapshot import NO_FAST, DeviceState, GpuSnapshot
from crucible_otel.otel.current import engine_of
from crucible_otel.otel.labels import label
from crucible_otel.semconv.gpu import LOST, POLL_DURATION, SAMPLE, SCOPE, XID
from crucible_otel.semconv.training import TRAINING

__all__ = ["failed_inside", "lost", "polled", "sample", "sampled_fields", "used", "xid"]

_MIB = 1024 * 1024


def sample(snapshot: GpuSnapshot) -> None:
    """Give every device's sample to the handlers that subscribe to it under any name."""
    now = runtime()
    if not now.bus.wants(SAMPLE.name):
        return
    scope = _innermost(now)
    for state in snapshot.devices:
        fields = sampled_fields(state)
        if fields and not state.lost:
            now.point(SAMPLE, fields, _device(state), scope=scope)


def lost(state: DeviceState, reason: str) -> None:
    """Say that a device is gone."""
    now = runtime()
    now.point(LOST, {}, {"reason": reason, **_device(state)}, scope=_innermost(now))


def xid(state: DeviceState, code: int) -> None:
    """Say that the driver reported an error."""
    now = runtime()
    now.point(XID, {}, {"code": code, **_device(state)}, scope=_innermost(now))


def used(name: str, measurements: dict[str, Any], estimated: bool) -> None:
    """Say what a block of code used of the GPUs, in the trace of whoever ran it."""
    runtime().point(SCOPE, measurements, {"name": name, "estimated": estimated})


def polled(duration_s: float, error: Exception | None) -> None:
    """Record how long it took to read all devices, and what it failed with."""
    now = runtime()
    if now.engine is not None:
        engine_of(now).update(
            POLL_DURATION, "record", (label(type_name(error)) if error is not None else "",), duration_s
        )


def failed_inside(error: Exception) -> None:
    """Count an error of ours."""
    runtime().fault("gpu", error)


def sampled_fields(state: DeviceState) -> dict[str, Any]:
    """Return what the event says of a device: whole MiB, percent, degrees, watts and joules; what it has."""
    fast = state.fast
    used, total = fast.memory_used_bytes, fast.memory_total_bytes
    found = {
        "used_mb": _mib(used),
        "total_mb": _mib(total),
        "free_mb": _mib(fast.memory_free_bytes),
        "allocated_mb": _mib(state.torch_allocated_bytes),
        "reserved_mb": _mib(state.torch_reserved_bytes),
        "gpu_percent": _percent(fast.utilization_ratio),
        "memory_percent": _percent(used / total) if used is not None and total else None,
        "celsius": fast.temperature_celsius.get("die"),
        "watts": fast.power_w,
        "limit_watts": state.slow.power_limit_w,
        "joules": None if fast is NO_FAST else state.energy_j,
    }
    return {name: value for name, value in found.items() if value is not None}


def _device(state: DeviceState) -> dict[str, Any]:
    return {"device": state.name, "uuid": state.device.uuid}


def _mib(nbytes: int | None) -> int | None:
    return None if nbytes is None else nbytes // _MIB


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio * 100, 3)


def _innermost(now: Runtime) -> Scope | None:
    """Return the training run that was opened last, else the last of anything: there is no caller whose trace it is."""
    try:
        scopes = list(now.open_scopes.values())
    except RuntimeError:  # one was opened at this moment
        return None
    runs = [scope for scope in scopes if scope.operation is TRAINING]
    found = runs or scopes
    return found[-1] if found else None
