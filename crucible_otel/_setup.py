"""The composition root: ``configure()`` and the handle it returns."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from crucible_otel.config.settings import SETTINGS, Settings
from crucible_otel.errors import ConfigurationError
from crucible_otel.events.bus import Filter
from crucible_otel.events.clock import Clock
from crucible_otel.events.outcome import Terminated
from crucible_otel.events.runtime import Runtime, install, runtime
from crucible_otel.events.scope import current, leave_ended
from crucible_otel.gpu.exporting import GpuExport
from crucible_otel.gpu.exporting import start as start_gpus
from crucible_otel.handlers import build
from crucible_otel.handlers.wanted import from_settings, wanted_handlers
from crucible_otel.semconv.names import RUN_ID
from crucible_otel.semconv.registry import KEPT
from crucible_otel.semconv.sdk import DROPPED, FAULTS

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

    from crucible_otel.export.pipeline import Pipeline

logger = logging.getLogger("crucible_otel")

_EXCEPTION_SIGNAL = "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"
_EXEMPLAR_FILTER = "OTEL_METRICS_EXEMPLAR_FILTER"
_FLUSH_S = 2.0
_LONGEST_S = 86_400.0
_lock = threading.Lock()


class Telemetry:
    """What :func:`configure` returns: the way to flush, to look, and to leave.

    As a ``with`` block it shuts down at the end, within the exit timeout.
    """

    def __init__(self, settings: Settings, runtime: Runtime, pipeline: Pipeline | None) -> None:
        self.settings, self._runtime, self._pipeline = settings, runtime, pipeline
        self._gpus: GpuExport | None = None

    @property
    def enabled(self) -> bool:
        """Whether telemetry is on."""
        return self._pipeline is not None

    @property
    def prometheus_url(self) -> str | None:
        """Where Prometheus finds the metrics; None without an endpoint."""
        pipeline = self._pipeline
        return pipeline.prometheus.url if pipeline is not None and pipeline.prometheus is not None else None

    @property
    def run_id(self) -> str:
        """Identity of the job this process belongs to, as its resource says."""
        return str(self._pipeline.resource.attributes.get(RUN_ID, "")) if self._pipeline is not None else ""

    def flush(self, timeout_s: float = _FLUSH_S) -> bool:
        """Deliver what there is.

        Args:
            timeout_s: The time for it; the call takes no longer.

        Returns:
            Whether what there was arrived in time; what was lost before is in :meth:`status`.
        """
        if self._pipeline is None:
            return True
        given_s = _readable(timeout_s, "flush")
        return self._pipeline.flush(_FLUSH_S if given_s is None else given_s)

    def shutdown(self, timeout_s: float | None = None) -> bool:
        """End what is open, deliver what there is, and stop; the second call changes nothing.

        Args:
            timeout_s: The time for it; the setting ``exit_timeout_s`` if left out.

        Returns:
            Whether everything was delivered in time, since :func:`configure`: False when anything was lost before, too.
        """
        if self._pipeline is None:
            self._leave_runtime()
            return True
        delivered = self._pipeline.shutdown(_readable(timeout_s, "shutdown"))
        if self._gpus is not None:
            self._gpus.close()
        self._leave_runtime()
        return delivered

    def status(self) -> dict[str, Any]:
        """Return what was accepted, delivered and lost, by signal; the endpoint; the handlers; what is open.

        A handler has its ``events``, its ``failures`` (exceptions it raised) and what it ``dropped`` (events lost to a
        full queue, or a file or stream that did not take them).
        """
        if self._pipeline is None:
            return {"enabled": False}
        bus = self._runtime.bus
        failures, dropped = bus.failures(), bus.dropped()
        return {
            "enabled": not self._pipeline.ended,
            **self._pipeline.status(),
            "handlers": {
                handler_id: {
                    "events": events,
                    "failures": failures.get(handler_id, 0),
                    "dropped": dropped.get(handler_id, 0),
                }
                for handler_id, events in bus.handlers().items()
            },
            "open": [scope.operation.name for scope in self._runtime.open_scopes.values()],
        }

    def __enter__(self) -> Telemetry:
        """Return the handle."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shut down."""
        self.shutdown()

    def _start_gpus(self, meter: Meter) -> None:
        settings = self.settings
        interval_s = settings.gpu_interval_ms / 1000
        self._gpus = start_gpus(
            meter,
            mode=settings.gpu,
            interval_s=interval_s,
            devices=settings.gpu_devices,
            names=settings.seed_metrics,
        )

    def _resume(self) -> None:
        """Go on in a forked child that asks for it by calling :func:`configure`."""
        if self._gpus is not None:
            self._gpus.resume()

    def _before_leaving(self) -> None:
        if self._gpus is not None:
            self._gpus.leave()

    def _in_charge(self) -> bool:
        return not (self._pipeline is not None and self._pipeline.ended)

    def _leave_runtime(self) -> None:
        with _lock:
            if runtime() is self._runtime:
                self._runtime.bus.on_failure = None
                install(Runtime(bus=self._runtime.bus))
        leave_ended()


def configure(
    settings: Settings | None = None,
    *,
    handlers: Iterable[str | tuple[str, Mapping[str, Any]]] = (),
    clock: Clock | None = None,
    **fields: Any,
) -> Telemetry:
    """Configure telemetry, once, from arguments and the environment.

    Without any argument it sends OTLP over HTTP to localhost and serves Prometheus on localhost:9464. It joins the
    providers that the application has installed and never replaces them. Called again it returns the same handle,
    with a warning that names the settings that differ; after ``shutdown()`` it starts anew.

    Args:
        settings: Settings; what they leave open comes from ``CRUCIBLE_OTEL_*``, then ``OTEL_*``, then defaults.
        handlers: Handlers to attach: a kind, or a pair of a kind and its options.
        clock: Time, for tests.
        fields: Fields of :class:`Settings`, as a shorthand.

    Raises:
        ConfigurationError: A setting or variable that cannot be used: which, its value, and what is accepted.
        UnknownHandlerError: A handler kind that does not exist.
    """
    settings = _given(settings, fields).resolve(os.environ)
    if clock is not None and not (callable(getattr(clock, "now", None)) and callable(getattr(clock, "time_ns", None))):
        raise ConfigurationError("clock", clock, "an object with now(), in seconds, and time_ns()")
    wanted = wanted_handlers(handlers) if settings.enabled else []
    with _lock:
        present = runtime().owner
        if isinstance(present, Telemetry) and present._in_charge():
            different = present.settings.differences(settings)
            if different:
                logger.warning("configure() was called before; ignored now: %s", ", ".join(different))
            telemetry = present
            present._resume()
        else:
            if settings.enabled:
                wanted = [*wanted_handlers(from_settings(settings)), *wanted]
            telemetry = _build(settings, clock)
    for attachment in wanted:
        runtime().bus.attach(attachment.handler, filter=attachment.filter, every=attachment.every, replace=True)
    return telemetry


def attach(kind: str, *, filter: Filter | None = None, every: int = 1, replace: bool = False, **options: Any) -> str:
    """Attach a handler of a kind that comes with the package: ``console``, ``jsonl``.

    Args:
        kind: The kind.
        filter: ``filter(event, measurements, metadata)``; the handler gets the event only when it returns true.
        every: Of the point events of a name only the first, and then every Nth.
        replace: Whether an attached handler of this id gives way.
        options: The kind's own options, such as ``path`` of ``jsonl``; ``id`` for another id than the default.

    Returns:
        The id, to detach it by.

    Raises:
        UnknownHandlerError: There is no such kind.
        ConfigurationError: An option that cannot be used.
        DuplicateHandlerError: The id is taken.
    """
    return runtime().bus.attach(build(kind, **options), filter=filter, every=every, replace=replace)


def _readable(timeout_s: Any, verb: str) -> float | None:
    """Return a time that can be waited for, at most a day; None for what is none, which must not stop a program."""
    if timeout_s is not None:
        try:
            return min(max(0.0, float(timeout_s)), _LONGEST_S)
        except (TypeError, ValueError, OverflowError):
            runtime().refuse(f"{verb}(timeout_s)", timeout_s, "a number of seconds is needed, the usual time is taken")
    return None


def _given(settings: Settings | None, fields: Mapping[str, Any]) -> Settings:
    if settings is not None and not isinstance(settings, Settings):
        raise ConfigurationError("settings", settings, "a Settings object, or None")
    if settings is not None:
        if fields:
            raise ConfigurationError("settings", settings, "a Settings object or single fields, not both")
        return settings
    for name, value in fields.items():
        if name not in SETTINGS:
            raise ConfigurationError(name, value, f"one of the settings: {', '.join(SETTINGS)}")
    return Settings(**fields)


def _build(settings: Settings, clock: Clock | None) -> Telemetry:
    bus = runtime().bus
    if not settings.enabled:
        off = Runtime(bus=bus, enabled=False)
        off.owner = telemetry = Telemetry(settings, off, None)
        install(off)
        logger.info("crucible_otel is switched off")
        return telemetry

    from crucible_otel.export.pipeline import Pipeline
    from crucible_otel.export.scope import own_scope
    from crucible_otel.otel.engine import Engine
    from crucible_otel.otel.projection import TelemetryProjection
    from crucible_otel.otel.short_ways import open_short_ways

    # Not at their first use: a child forked while another thread imports a module would wait for that for ever.
    from crucible_otel.verbs import attaching, call, dataset, emit, inference, spans, training, workflow  # noqa: F401

    around = current()
    if around is not None and not around.ended:
        logger.warning("the %s around configure() began before it and is not reported", around.operation.name)
    new = Runtime(bus=bus, clock=clock)
    engine = Engine(
        clock=new.clock,
        limit=settings.cardinality_limit,
        interval_s=settings.step_event_interval_s,
        exemplars=os.environ.get(_EXEMPLAR_FILTER, "").strip() or "trace_based",
        listened=bus.wants,
    )
    pipeline = Pipeline(
        settings,
        os.environ,
        engine,
        KEPT.values(),
        on_fault=lambda component: engine.update(FAULTS, "sum", (component,)),
        on_lost=lambda signal, reason, count: engine.update(DROPPED, "sum", (signal, reason), count),
        before_leaving=lambda reason: projection.leave(lambda: _end_open(new, reason, telemetry)),
        flush_handlers=bus.flush,
    )
    projection = TelemetryProjection(
        tracer=pipeline.tracer(),
        log=pipeline.log(),
        engine=engine,
        runtime=new,
        events=settings.events,
        exceptions=os.environ.get(_EXCEPTION_SIGNAL, "").strip(),
    )
    new.projection, new.engine = projection, engine
    bus.on_failure = projection.handler_failed
    bus.on_change(engine.rearm)
    new.operations = open_short_ways(
        projection,
        engine,
        bus,
        spans=pipeline.traces.hot_spans(settings, new.clock),
        tracer=pipeline.tracer(),
        slow_s=settings.slow_call_threshold_ms / 1000,
        rate=settings.call_sample_rate,
        step_rate=settings.step_sample_rate,
    )
    new.owner = telemetry = Telemetry(settings, new, pipeline)
    install(new)
    scope = own_scope()
    telemetry._start_gpus(pipeline.meter_provider.get_meter(scope.name, scope.version, scope.schema_url))
    _say(telemetry, pipeline)
    return telemetry


def _end_open(of: Runtime, reason: str, telemetry: Telemetry) -> None:
    """End what is open as cancelled; in a child what its parent opened is its parent's."""
    telemetry._before_leaving()
    of.close_all(Terminated(f"the process left ({reason})"))


def _say(telemetry: Telemetry, pipeline: Pipeline) -> None:
    settings = telemetry.settings
    ways = [f"{tally.signal} to {tally.endpoint}" for tally in pipeline.ledger.tallies]
    ways += [f"metrics at {telemetry.prometheus_url}"] if telemetry.prometheus_url else []
    ways += [f"joined the application's {name}" for name in pipeline.status()["joined"]]
    logger.info(
        "crucible_otel: service %s, run %s: %s",
        settings.service_name,
        telemetry.run_id,
        "; ".join(ways) or "nothing leaves",
    )
