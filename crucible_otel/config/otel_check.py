"""Checking the ``OTEL_*`` variables when telemetry is set up.

The SDK takes many a bad value in silence, or breaks far from its cause: an unknown sampler becomes the default one, a
misspelled temporality cumulative, a bad header is logged with its secret, ``OTEL_SPAN_LINK_COUNT_LIMIT=x`` fails the
import of ``opentelemetry.sdk.trace``. So they are checked here, before the SDK is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from crucible_otel.config.masking import mask_url
from crucible_otel.config.otel_env import OTEL_VARIABLES, SIGNALS, read
from crucible_otel.config.parse import number, read_variable
from crucible_otel.config.parse_network import is_http_url
from crucible_otel.errors import ConfigurationError

__all__ = ["General", "check_all", "check_endpoint"]

_RATIO_SAMPLERS: Final = ("traceidratio", "parentbased_traceidratio")
_RATIO: Final = number(0, 1)


class General(NamedTuple):
    """What holds for every signal whose own variables say nothing else.

    Attributes:
        protocol: The OTLP protocol.
        protocol_wins: Whether it wins over a signal's own variable.
        compression: The compression.
        endpoint: The endpoint; empty for the default.
    """

    protocol: str
    protocol_wins: bool
    compression: str
    endpoint: str


def check_all(environ: Mapping[str, str], *, general: General, overridable: frozenset[str]) -> None:
    """Check every variable that is set and not overridden.

    Args:
        environ: The environment.
        general: What was found for all signals.
        overridable: Variables that stand behind a setting, which checks them itself when it needs them.

    Raises:
        ConfigurationError: A value cannot be used.
    """
    for variable in OTEL_VARIABLES.values():
        if variable.name not in overridable or variable.even_if_overridden:
            read(variable.name, environ)
    _check_sampler_argument(environ)
    for processor in ("BSP", "BLRP"):
        _check_batch(f"OTEL_{processor}_MAX_EXPORT_BATCH_SIZE", f"OTEL_{processor}_MAX_QUEUE_SIZE", environ)
    for signal in SIGNALS:
        _check_signal(f"OTEL_EXPORTER_OTLP_{signal}_", environ, general)


def check_endpoint(source: str, endpoint: str, protocol: str) -> None:
    """Check that ``protocol`` can send to ``endpoint``; an empty one is the default.

    Raises:
        ConfigurationError: It is a bare gRPC target and the protocol is http/protobuf.
    """
    if protocol != "grpc" and endpoint.strip() and not is_http_url(endpoint.strip()):
        raise ConfigurationError(
            source, mask_url(endpoint), "a URL such as http://localhost:4318, because the protocol is http/protobuf"
        )


def _check_sampler_argument(environ: Mapping[str, str]) -> None:
    sampler = read("OTEL_TRACES_SAMPLER", environ)
    argument = read("OTEL_TRACES_SAMPLER_ARG", environ)
    if sampler and sampler.lower() in _RATIO_SAMPLERS and argument:
        read_variable("OTEL_TRACES_SAMPLER_ARG", argument, _RATIO)


def _check_batch(batch: str, queue: str, environ: Mapping[str, str]) -> None:
    batch_size, queue_size = read(batch, environ), read(queue, environ)
    if batch_size and queue_size and batch_size > queue_size:
        raise ConfigurationError(batch, environ[batch], f"at most {queue} ({queue_size})")


def _check_signal(prefix: str, environ: Mapping[str, str], general: General) -> None:
    """Check that what holds for one signal goes together; a variable of the signal's own is blamed."""
    own = {tail: read(prefix + tail, environ) for tail in ("PROTOCOL", "ENDPOINT", "COMPRESSION")}
    protocol = general.protocol if general.protocol_wins or not own["PROTOCOL"] else own["PROTOCOL"]
    if own["ENDPOINT"]:
        check_endpoint(prefix + "ENDPOINT", own["ENDPOINT"], protocol)
    elif protocol != "grpc" and general.endpoint and not is_http_url(general.endpoint):
        shown = mask_url(general.endpoint)
        raise ConfigurationError(f"{prefix}PROTOCOL", protocol, f"grpc, because the endpoint {shown} is no URL")
    if protocol != "grpc":
        return
    if own["COMPRESSION"] == "deflate":
        raise ConfigurationError(f"{prefix}COMPRESSION", "deflate", "gzip or none, because the protocol is grpc")
    if general.compression == "deflate" and not own["COMPRESSION"]:
        raise ConfigurationError(f"{prefix}PROTOCOL", protocol, "http/protobuf, because the compression is deflate")
    for timeout in ("OTEL_EXPORTER_OTLP_TIMEOUT", f"{prefix}TIMEOUT"):
        if environ.get(timeout, "1").strip() == "":  # the gRPC exporter makes a number of it
            accepted = f"{OTEL_VARIABLES[timeout].parser.accepted}, or no such variable"
            raise ConfigurationError(timeout, environ[timeout], accepted)
