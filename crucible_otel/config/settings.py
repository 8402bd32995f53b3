"""The settings: one frozen record, one field a setting, each declared once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

from crucible_otel.config.declare import METADATA_KEY, Setting, setting
from crucible_otel.config.declare import variable as variable_of
from crucible_otel.config.parse import boolean, check_argument, choice, integer, names, number, text
from crucible_otel.config.parse_network import headers, mapping, url
from crucible_otel.config.parse_objects import instance, instances, path
from crucible_otel.config.resolve import ARGUMENT, DEFAULT, resolve
from crucible_otel.semconv.names import RUN_ID, SERVICE_NAME

__all__ = ["SETTINGS", "Settings"]

_EXPORTER = instance("export", "shutdown")
_QUIET = "Inside pytest `none`, unless an endpoint or exporter is given."


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """What :func:`configure` goes by.

    A ``Settings`` that you make holds what you give; the rest comes from the environment and the defaults when
    ``configure()`` resolves it. Precedence: argument, ``CRUCIBLE_OTEL_<FIELD>``, ``OTEL_*``, default.

    Raises:
        ConfigurationError: A value cannot be used; the error names the field, the value and what is accepted.
    """

    service_name: str = setting(
        text(),
        default="unknown_service:python",
        doc=f"Name of the service (`{SERVICE_NAME}`).",
        otel=("OTEL_SERVICE_NAME",),
        resource_key=SERVICE_NAME,
    )
    run_id: str | None = setting(
        text(),
        default=None,
        doc=f"Identity of the run (`{RUN_ID}`); by default the Slurm or torchelastic job's, else generated.",
        resource_key=RUN_ID,
    )
    resource_attributes: Mapping[str, str] = setting(
        mapping(),
        default=MappingProxyType({}),
        doc="More attributes of the resource, added to those of the levels below it.",
        otel=("OTEL_RESOURCE_ATTRIBUTES",),
        merged=True,
    )
    enabled: bool = setting(
        boolean(),
        default=True,
        doc="Whether there is telemetry at all; off, no thread is started, no port opened, no other variable checked.",
        otel=("OTEL_SDK_DISABLED",),
    )
    traces_exporter: tuple[str, ...] = setting(
        names("otlp", "console", "none", alone="none"),
        default=("otlp",),
        doc=f"Where traces go. {_QUIET}",
        otel=("OTEL_TRACES_EXPORTER",),
        quiet_unless=("endpoint", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        quiet_exporter="span_exporter",
    )
    metrics_exporter: tuple[str, ...] = setting(
        names("otlp", "prometheus", "console", "none", alone="none"),
        default=("otlp", "prometheus"),
        doc=f"Where metrics go. {_QUIET}",
        otel=("OTEL_METRICS_EXPORTER",),
        quiet_unless=("endpoint", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
        quiet_exporter="metric_exporter",
    )
    logs_exporter: tuple[str, ...] = setting(
        names("otlp", "console", "none", alone="none"),
        default=("otlp",),
        doc=f"Where logs and events go. {_QUIET}",
        otel=("OTEL_LOGS_EXPORTER",),
        quiet_unless=("endpoint", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
        quiet_exporter="log_exporter",
    )
    endpoint: str | None = setting(
        url(),
        default=None,
        doc="The OTLP endpoint of all signals; by default `http://localhost:4318`, with `grpc` port 4317.",
        otel=("OTEL_EXPORTER_OTLP_ENDPOINT",),
    )
    protocol: Literal["http/protobuf", "grpc"] = setting(
        choice("http/protobuf", "grpc"),
        default="http/protobuf",
        doc="The OTLP transport.",
        otel=("OTEL_EXPORTER_OTLP_PROTOCOL",),
    )
    headers: Mapping[str, str] = setting(
        headers(),
        default=MappingProxyType({}),
        doc="Headers (gRPC: metadata) of every OTLP export; never shown.",
        otel=("OTEL_EXPORTER_OTLP_HEADERS",),
        secret=True,
    )
    compression: Literal["none", "gzip", "deflate"] = setting(
        choice("none", "gzip", "deflate"),
        default="none",
        doc="Compression of OTLP exports; `grpc` has no `deflate`.",
        otel=("OTEL_EXPORTER_OTLP_COMPRESSION",),
    )
    prometheus_host: str = setting(
        text("a host name or IP address", r"[^\s/]+"),
        default="localhost",
        doc="Address of the Prometheus endpoint.",
        otel=("OTEL_EXPORTER_PROMETHEUS_HOST",),
    )
    prometheus_port: int = setting(
        integer(0, 65535),
        default=9464,
        doc="Port of the Prometheus endpoint, to which the local rank is added; 0 is any free one.",
        otel=("OTEL_EXPORTER_PROMETHEUS_PORT",),
    )
    export_interval_s: float = setting(
        number(0.001, 1_000_000, "a number of seconds"),
        default=60.0,
        doc="Pause between two OTLP exports of metrics.",
        otel=("OTEL_METRIC_EXPORT_INTERVAL",),
    )
    exit_timeout_s: float = setting(
        number(0, 86_400, "a number of seconds"),
        default=3.0,
        doc="How long the end of the process may wait for telemetry to leave.",
    )
    queue_max_bytes: int = setting(
        integer(100_000, 2**40, "a whole number of bytes"),
        default=67_108_864,
        doc="How much memory the spans that wait for their export may take, and as much the log records: about 3 kB "
        "each and their texts. What comes then is dropped and counted.",
    )
    sample_rate: float = setting(
        number(0, 1),
        default=1.0,
        doc="Share of the traces that are kept; `OTEL_TRACES_SAMPLER` wins over it, even over the argument.",
    )
    call_sample_rate: float = setting(
        number(0, 1),
        default=1.0,
        doc="Share of the spans of calls and inferences that are kept, in a trace that is. Failed and slow ones always "
        "are; metrics count all.",
    )
    slow_call_threshold_ms: int = setting(
        integer(0, 86_400_000, "a whole number of milliseconds"),
        default=1000,
        doc="A call or inference that takes longer is slow.",
    )
    step_sample_rate: float = setting(
        number(0, 1),
        default=0.0,
        doc="Share of the training steps that become spans in a trace that is kept.",
    )
    trace_span_limit: int = setting(
        integer(1, 10_000_000),
        default=5000,
        doc="How many spans of calls, inferences and steps one trace may have; the next ones get a trace of their own, "
        "linked to where they belong.",
    )
    cardinality_limit: int = setting(
        integer(1, 10_000_000),
        default=2000,
        doc="How many series one metric may have; what is more goes to one overflow series.",
    )
    events: Literal["log", "span", "both", "off"] = setting(
        choice("log", "span", "both", "off"),
        default="log",
        doc="Whether events leave as log records, as events of the current span, both or neither.",
    )
    step_event_interval_s: float = setting(
        number(0, 86_400, "a number of seconds"),
        default=1.0,
        doc="Least pause between two log events of training steps; 0 logs every step.",
    )
    handlers: tuple[str, ...] = setting(
        names(pattern=r"[a-z0-9_.-]+"),
        default=(),
        doc="Handlers to attach, such as `console` and `jsonl`.",
    )
    jsonl_path: str | None = setting(
        path(),
        default=None,
        doc="The file that the handler `jsonl` appends to.",
    )
    gpu: Literal["auto", "on", "off"] = setting(
        choice("auto", "on", "off"),
        default="auto",
        doc="Whether GPUs are sampled: `auto`, where there is a driver; `on`, with a warning where there is none. "
        "Inside pytest `off`, unless asked for.",
        in_pytest="off",
    )
    gpu_interval_ms: int = setting(
        integer(100, 86_400_000, "a whole number of milliseconds"),
        default=5000,
        doc="Pause between two samples of the GPUs.",
    )
    gpu_devices: tuple[str, ...] = setting(
        names(),
        default=(),
        doc="GPUs to sample: indices, UUIDs or beginnings of UUIDs, or `all`; by default those that "
        "`CUDA_VISIBLE_DEVICES` leaves.",
    )
    seed_metrics: Literal["off", "only", "both"] = setting(
        choice("off", "only", "both"),
        default="off",
        doc="Whether metrics that Snakepit's documents name otherwise have those names: `off`, ours alone; `only`, "
        "theirs alone; `both`. So far those of GPUs.",
    )
    handle_sigterm: bool = setting(
        boolean(),
        default=True,
        doc="Whether SIGTERM flushes telemetry before it takes its course.",
    )
    views: Sequence[object] = setting(
        instances("OpenTelemetry View objects"),
        default=(),
        doc="Views of the SDK's meter provider.",
        in_environment=False,
    )
    span_exporter: object | None = setting(
        _EXPORTER,
        default=None,
        doc="Your own span exporter, used instead of the OTLP one.",
        in_environment=False,
    )
    metric_exporter: object | None = setting(
        _EXPORTER,
        default=None,
        doc="Your own metric exporter, used instead of the OTLP one.",
        in_environment=False,
    )
    log_exporter: object | None = setting(
        _EXPORTER,
        default=None,
        doc="Your own log record exporter, used instead of the OTLP one.",
        in_environment=False,
    )

    _sources: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __post_init__(self) -> None:
        for name, value in self._given().items():
            object.__setattr__(self, name, check_argument(name, value, SETTINGS[name].parser))

    def __repr__(self) -> str:
        shown = (f"{name}={SETTINGS[name].parser.show(value)!r}" for name, value in self._known().items())
        return f"Settings({', '.join(shown)})"

    @property
    def is_resolved(self) -> bool:
        """Whether every field holds its value."""
        return bool(self._sources)

    def resolve(self, environ: Mapping[str, str]) -> Settings:
        """Return these settings with every field that was not given filled in from ``environ`` and the defaults.

        Do it before ``opentelemetry.sdk`` is imported, which fails on some bad variables.

        Args:
            environ: The environment, as a rule ``os.environ``.

        Raises:
            ConfigurationError: A variable cannot be used, or values do not go together.
        """
        if self.is_resolved:
            return self
        found = resolve(SETTINGS, self._given(), environ)
        values: dict[str, Any] = {name: value for name, (_, value) in found.items()}
        resolved = Settings(**values)
        object.__setattr__(resolved, "_sources", {name: source for name, (source, _) in found.items()})
        return resolved

    def source(self, name: str) -> str:
        """Return where the value of a field comes from: ``argument``, ``default`` or the name of a variable."""
        return self._sources.get(name) or (ARGUMENT if name in self._given() else DEFAULT)

    def overrides_otel(self, name: str) -> bool:
        """Whether a field was set by argument or ``CRUCIBLE_OTEL_*`` and so wins over every ``OTEL_*`` variable."""
        return self.source(name) in (ARGUMENT, variable_of(name))

    def differences(self, other: Settings) -> tuple[str, ...]:
        """Return the names of the fields that both hold and that differ."""
        mine, theirs = self._known(), other._known()
        both = (name for name in mine if name in theirs and mine[name] is not theirs[name])
        return tuple(name for name in both if mine[name] != theirs[name])

    def _given(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in SETTINGS}
        return {name: value for name, value in values.items() if SETTINGS[name].is_given(value)}

    def _known(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SETTINGS} if self.is_resolved else self._given()


SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(
    {each.name: each.metadata[METADATA_KEY] for each in dataclasses.fields(Settings)}
)
"""What each field declares, by name."""

# The fields' own words, for help() and editors that ask the running program.
Settings.__doc__ = "\n".join(
    [
        (Settings.__doc__ or "").rstrip(),
        "",
        "    Attributes:",
        *(f"        {name}: {each.doc}" for name, each in SETTINGS.items()),
    ]
)
