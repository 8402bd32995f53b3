"""Resolving: what no single field shows."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from crucible_otel.config.settings import SETTINGS, Settings
from crucible_otel.errors import ConfigurationError
from crucible_otel.semconv.names import RUN_ID, SERVICE_NAME

PYTEST = {"PYTEST_VERSION": "9.2.0"}
EXPORTERS = ("traces_exporter", "metrics_exporter", "logs_exporter")
NONE, OTLP, BOTH = ("none",), ("otlp",), ("otlp", "prometheus")


class Exporter:
    """Something with the methods of an exporter."""

    def export(self, batch: object) -> None:
        """Export nothing."""

    def shutdown(self) -> None:
        """Shut nothing down."""


@pytest.mark.parametrize("environ", [PYTEST, {"PYTEST_CURRENT_TEST": "a (call)"}])
@pytest.mark.parametrize(
    ("given", "more", "expected"),
    [
        ({}, {}, (NONE, NONE, NONE)),
        ({"service_name": "a"}, {"CRUCIBLE_OTEL_EVENTS": "log"}, (NONE, NONE, NONE)),
        ({"endpoint": "http://a"}, {}, (OTLP, BOTH, OTLP)),
        ({}, {"CRUCIBLE_OTEL_ENDPOINT": "http://a"}, (OTLP, BOTH, OTLP)),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, (OTLP, BOTH, OTLP)),
        ({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, (OTLP, NONE, NONE)),
        ({}, {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://a"}, (NONE, BOTH, NONE)),
        ({}, {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://a"}, (NONE, NONE, OTLP)),
        ({"span_exporter": Exporter()}, {}, (OTLP, NONE, NONE)),
        ({"metric_exporter": Exporter()}, {}, (NONE, OTLP, NONE)),
        ({"log_exporter": Exporter()}, {}, (NONE, NONE, OTLP)),
        ({"metrics_exporter": ("prometheus",)}, {}, (NONE, ("prometheus",), NONE)),
        ({}, {"OTEL_LOGS_EXPORTER": "console"}, (NONE, NONE, ("console",))),
        ({}, {"CRUCIBLE_OTEL_TRACES_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": ""}, (OTLP, NONE, NONE)),
    ],
)
def test_inside_pytest_nothing_leaves_unless_asked(
    environ: dict[str, str], given: dict[str, Any], more: dict[str, str], expected: tuple[tuple[str, ...], ...]
) -> None:
    """A test suite that imports an instrumented program opens no port and sends nothing; what is asked for, works."""
    resolved = Settings(**given).resolve({**environ, **more})
    assert expected == tuple(getattr(resolved, name) for name in EXPORTERS)


@pytest.mark.parametrize(
    ("settings", "environ", "expected"),
    [
        (Settings(), {"OTEL_RESOURCE_ATTRIBUTES": f"{SERVICE_NAME}=otel"}, "otel"),
        (Settings(), {"OTEL_RESOURCE_ATTRIBUTES": f"{SERVICE_NAME}=x", "OTEL_SERVICE_NAME": "otel"}, "otel"),
        (Settings(), {"CRUCIBLE_OTEL_RESOURCE_ATTRIBUTES": f"{SERVICE_NAME}=own", "OTEL_SERVICE_NAME": "x"}, "own"),
        (Settings(resource_attributes={SERVICE_NAME: "arg"}), {"CRUCIBLE_OTEL_SERVICE_NAME": "x"}, "arg"),
        (Settings(service_name="arg", resource_attributes={SERVICE_NAME: "x"}), {}, "arg"),
        (Settings(), {"OTEL_RESOURCE_ATTRIBUTES": f"{SERVICE_NAME}="}, "unknown_service:python"),
    ],
)
def test_service_name_may_stand_among_the_resource_attributes(
    settings: Settings, environ: dict[str, str], expected: str
) -> None:
    """It counts on its level of precedence, after the name proper, and is not left to contradict it."""
    resolved = settings.resolve(environ)
    assert expected == resolved.service_name
    assert SERVICE_NAME not in resolved.resource_attributes


def test_run_id_may_stand_among_the_resource_attributes() -> None:
    """As launchers pass it on that know nothing but OpenTelemetry."""
    resolved = Settings().resolve({"OTEL_RESOURCE_ATTRIBUTES": f"{RUN_ID}=r1,a=b"})
    assert ("r1", "OTEL_RESOURCE_ATTRIBUTES", {"a": "b"}) == (
        resolved.run_id,
        resolved.source("run_id"),
        resolved.resource_attributes,
    )


def test_resource_attributes_of_all_levels_are_added_up() -> None:
    """The higher level wins key by key."""
    environ = {"OTEL_RESOURCE_ATTRIBUTES": "a=1,b=1,c=1", "CRUCIBLE_OTEL_RESOURCE_ATTRIBUTES": "b=2,c=2"}
    assert {"a": "1", "b": "2", "c": "3"} == Settings(resource_attributes={"c": "3"}).resolve(
        environ
    ).resource_attributes


def test_switched_off_telemetry_minds_no_other_variable() -> None:
    """A program that has telemetry off is not stopped by what only telemetry would read."""
    bad = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        "CRUCIBLE_OTEL_PROMETHEUS_PORT": "x",
        "OTEL_BSP_SCHEDULE_DELAY": "x",
    }
    for off in ({"OTEL_SDK_DISABLED": "true"}, {"CRUCIBLE_OTEL_ENABLED": "no"}):
        resolved = Settings().resolve({**bad, **off})
        assert (False, "http/protobuf", 9464) == (resolved.enabled, resolved.protocol, resolved.prometheus_port)
    with pytest.raises(ConfigurationError):
        Settings(enabled=True).resolve({**bad, "OTEL_SDK_DISABLED": "true"})


@pytest.mark.parametrize(
    ("settings", "environ", "field", "accepted"),
    [
        (
            Settings(protocol="grpc", compression="deflate"),
            {},
            "compression",
            "gzip or none, because the protocol is grpc",
        ),
        (
            Settings(protocol="grpc"),
            {"OTEL_EXPORTER_OTLP_COMPRESSION": "deflate"},
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "gzip or none",
        ),
        (Settings(endpoint="collector:4317"), {}, "endpoint", "a URL such as http://localhost:4318"),
        (
            Settings(),
            {"CRUCIBLE_OTEL_ENDPOINT": "collector:4317"},
            "CRUCIBLE_OTEL_ENDPOINT",
            "because the protocol is http/protobuf",
        ),
        (Settings(handlers=("jsonl",)), {}, "jsonl_path", "the path of a file, because handlers names jsonl"),
    ],
)
def test_values_that_do_not_go_together_are_refused(
    settings: Settings, environ: dict[str, str], field: str, accepted: str
) -> None:
    """The error blames where the value came from and says why it cannot be."""
    with pytest.raises(ConfigurationError) as caught:
        settings.resolve(environ)
    assert field == caught.value.field
    assert accepted in caught.value.accepted


@pytest.mark.parametrize(
    "endpoint",
    ["collector:4317", "http://collector:4317", "unix:///run/otel.sock", "[::1]:4317", "dns:///collector:4317"],
)
def test_grpc_takes_its_own_kinds_of_target(endpoint: str) -> None:
    """A bare target is fine where gRPC sends."""
    assert endpoint == Settings(endpoint=endpoint).resolve({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).endpoint


def test_unknown_variable_draws_one_line_with_the_closest_name(caplog: pytest.LogCaptureFixture) -> None:
    """A typing error is told, without its value, and stops nothing."""
    unknown = "CRUCIBLE_OTEL_SERVICENAME"
    with caplog.at_level(logging.WARNING):
        Settings().resolve({unknown: "hunter2", "CRUCIBLE_OTEL_EVENTS": "log", "CRUCIBLE_ROOT": "x"})
    closest = "the closest is CRUCIBLE_OTEL_SERVICE_NAME"
    expected = f"{unknown} is not a variable of crucible_otel and changes nothing; {closest}"
    assert [expected] == [each.getMessage() for each in caplog.records]


def test_known_variables_draw_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Every field's own variable is known."""
    with caplog.at_level(logging.WARNING):
        Settings().resolve(
            {f"CRUCIBLE_OTEL_{name.upper()}": "" for name, each in SETTINGS.items() if each.in_environment}
        )
    assert [] == caplog.records
