"""The functions of Snakepit's telemetry design, by their names: ``cx.snakepit.call_start`` and the others.

Durations are integer nanoseconds. Each emits the event of Snakepit's that its description names, which becomes what
the verb of its family makes of it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crucible_otel.events.runtime import runtime
from crucible_otel.events.translate import nanoseconds
from crucible_otel.semconv.aliases import SNAKEPIT
from crucible_otel.verbs import tensor
from crucible_otel.verbs.emit import execute
from crucible_otel.verbs.given import NANOSECONDS, mapping, present, quietly, whole
from crucible_otel.verbs.inference import tokens_per_second

__all__ = [
    "call_exception",
    "call_start",
    "call_stop",
    "inference",
    "memory_allocate",
    "memory_release",
    "pool_checkin",
    "pool_checkout",
    "pool_size",
    "serialize_stop",
    "tensor_op",
    "train_step",
]

_SECOND_NS = 1e9
Values = Mapping[str, Any]


def call_start(operation: str, metadata: Values | None = None) -> int:
    """Emit ``snakepit.call.start``: the call is what encloses everything until its end in this context.

    Args:
        operation: Name of what is done.
        metadata: ``library``, ``function``, ``worker_id``, ``device`` and whatever else is to stand on its span.

    Returns:
        When it started, in nanoseconds of ``time.perf_counter_ns()``: for :func:`call_stop` and
        :func:`call_exception`.
    """
    current = runtime()
    started = round(current.clock.now() * _SECOND_NS)
    if not current.enabled:
        return started
    given = {**mapping(metadata, "call_start(metadata)"), "operation": operation}
    _emit("call_start", {"system_time": current.clock.time_ns()}, given)
    return started


@quietly
def call_stop(start_time: int, metadata: Values | None = None, timings: Values | None = None) -> None:
    """Emit ``snakepit.call.stop``: ends the innermost call of this context, of that operation where one is told.

    Args:
        start_time: When it started, as :func:`call_start` returned it.
        metadata: ``operation``, ``library``, ``function``, ``result``, ``error_type``.
        timings: ``queue_time``, ``serialize_time``, ``python_time``, ``deserialize_time`` in nanoseconds.
    """
    measurements = {**mapping(timings, "call_stop(timings)"), **_since(start_time, "call_stop(start_time)")}
    _emit("call_stop", measurements, mapping(metadata, "call_stop(metadata)"))


@quietly
def call_exception(
    start_time: int,
    metadata: Values | None = None,
    kind: str = "error",
    reason: object = None,
    stacktrace: Iterable[object] | str | None = None,
) -> None:
    """Emit ``snakepit.call.exception``: ends the innermost call of this context, of that operation where one is told.

    Args:
        start_time: When it started, as :func:`call_start` returned it.
        metadata: ``operation``, ``library``, ``function``, ``error_type``.
        kind: ``error``, ``exit`` or ``throw``.
        reason: The exception, or what went wrong in words.
        stacktrace: Where.
    """
    measurements = _since(start_time, "call_exception(start_time)")
    failure = present(kind=kind, reason=reason, stacktrace=stacktrace)
    _emit("call_exception", measurements, {**mapping(metadata, "call_exception(metadata)"), **failure})


@quietly
def pool_checkout(queue_time: int, pool: str, worker_id: object = None) -> None:
    """Emit ``snakepit.pool.checkout``.

    Args:
        queue_time: Nanoseconds spent waiting for the worker.
        pool: Name of the pool.
        worker_id: Which worker; on events only.
    """
    measurements = _time("pool_checkout", queue_time=queue_time)
    _emit("pool_checkout", measurements, present(pool=pool, worker_id=worker_id))


@quietly
def pool_checkin(busy_time: int, pool: str, worker_id: object = None) -> None:
    """Emit ``snakepit.pool.checkin``.

    Args:
        busy_time: Nanoseconds that the worker was busy.
        pool: Name of the pool.
        worker_id: Which worker; on events only.
    """
    _emit("pool_checkin", _time("pool_checkin", busy_time=busy_time), present(pool=pool, worker_id=worker_id))


@quietly
def pool_size(
    pool: str, size: int | None = None, idle: int | None = None, busy: int | None = None, queue_depth: int | None = None
) -> None:
    """Emit ``snakepit.pool.size``.

    Args:
        pool: Name of the pool.
        size: Workers it has room for.
        idle: Workers without a task.
        busy: Workers with a task.
        queue_depth: Tasks that wait for a worker.
    """
    measurements = _count("pool_size", size=size, idle=idle, busy=busy, queue_depth=queue_depth)
    _emit("pool_size", measurements, {"pool": pool})


@quietly
def memory_allocate(bytes: int, type: str, device: object = None) -> None:
    """Emit ``snakepit.memory.allocate``.

    Args:
        bytes: Bytes.
        type: ``cpu`` or ``gpu``.
        device: Which device.
    """
    _emit("memory_allocate", _count("memory_allocate", bytes=bytes), present(type=type, device=device))


@quietly
def memory_release(bytes: int, type: str, device: object = None) -> None:
    """Emit ``snakepit.memory.release``.

    Args:
        bytes: Bytes.
        type: ``cpu`` or ``gpu``, as it was allocated.
        device: Which device, as it was allocated.
    """
    _emit("memory_release", _count("memory_release", bytes=bytes), present(type=type, device=device))


@quietly
def serialize_stop(duration: int, bytes: int, direction: str, format: str) -> None:
    """Emit ``snakepit.serialize.stop``.

    Args:
        duration: Nanoseconds it took.
        bytes: Bytes of the encoded form.
        direction: ``encode`` or ``decode``.
        format: Format, such as ``json`` or ``arrow``.
    """
    measurements = {**_time("serialize_stop", duration=duration), **_count("serialize_stop", bytes=bytes)}
    _emit("serialize_stop", measurements, present(direction=direction, format=format))


@quietly
def tensor_op(
    duration: int,
    op: str,
    input_shapes: Iterable[Iterable[int]],
    output_shape: Iterable[int],
    dtype: object = None,
    device: object = None,
) -> None:
    """Emit ``snakepit.ml.tensor_op``, with the elements that the shapes have.

    Args:
        duration: Nanoseconds it took.
        op: Name of the operation.
        input_shapes: Shapes of the inputs; ``()`` is the shape of a scalar.
        output_shape: Shape of the output.
        dtype: Type of the elements.
        device: Where it ran.
    """
    measured = _time("tensor_op", duration=duration)
    elements, told = tensor.described(op, input_shapes, output_shape, dtype, device)
    _emit("tensor_op", {**measured, **present(**elements)}, present(**told))


@quietly
def inference(duration: int, batch_size: int, model: str, device: object = None, tokens: int | None = None) -> None:
    """Emit ``snakepit.ml.inference``, with the tokens per second.

    Args:
        duration: Nanoseconds it took.
        batch_size: Items in the batch.
        model: Name of the model.
        device: Where it ran.
        tokens: Tokens inferred.
    """
    measured = {**_time("inference", duration=duration), **_count("inference", batch_size=batch_size, tokens=tokens)}
    rate = tokens_per_second(measured.get("tokens"), measured.get("duration"))
    _emit("inference", {**measured, **present(tokens_per_second=rate)}, present(model=model, device=device))


@quietly
def train_step(duration: int, loss: Any, lr: Any, epoch: int, step: int, model: str) -> None:
    """Emit ``snakepit.ml.train_step``, which is a training step like any other.

    Args:
        duration: Nanoseconds it took.
        loss: Loss.
        lr: Learning rate.
        epoch: Number of the epoch.
        step: Number of the step.
        model: Name of the model.
    """
    measured = _time("train_step", duration=duration)
    given = present(loss=loss, learning_rate=lr)
    _emit("train_step", {**measured, **given}, present(epoch=epoch, step=step, model=model))


def _emit(function: str, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
    execute(SNAKEPIT[function].name, measurements, metadata)


def _since(start_time: Any, what: str) -> dict[str, int]:
    """Return the duration since a start; a float is in seconds of ``time.perf_counter()``."""
    started = nanoseconds(start_time, _SECOND_NS if isinstance(start_time, float) else 1.0)
    elapsed = None if started is None else round(runtime().clock.now() * _SECOND_NS) - started
    if elapsed is None or elapsed < 0:
        if start_time is not None:
            runtime().refuse(what, start_time, "what call_start() returned is needed")
        return {}
    return {"duration": elapsed}


def _time(function: str, **given: Any) -> dict[str, int]:
    found = {name: nanoseconds(value) for name, value in given.items()}
    for name, value in given.items():
        if value is not None and found[name] is None:
            runtime().refuse(f"{function}({name})", value, NANOSECONDS)
    return present(**found)


def _count(function: str, **given: Any) -> dict[str, int]:
    return present(**{name: whole(value, f"{function}({name})", least=0) for name, value in given.items()})
