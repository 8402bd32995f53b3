"""Settings: every field, from every source, good and bad."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from crucible_otel.config.declare import variable
from crucible_otel.config.otel_env import OTEL_VARIABLES
from crucible_otel.config.settings import SETTINGS, Settings
from crucible_otel.errors import ConfigurationError


class Exporter:
    """Something with the methods of an exporter, and a token in its repr."""

    def export(self, batch: object) -> None:
        """Export nothing."""

    def shutdown(self) -> None:
        """Shut nothing down."""

    def __repr__(self) -> str:
        return "Exporter(token='hunter2')"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What to try one field with; a text comes with the value it stands for.

    The rivals are texts on the lower levels that would give another value than the level under test.
    """

    argument: tuple[Any, object]
    bad_arguments: tuple[object, ...]
    own: tuple[str, object] | None = None
    bad_texts: tuple[str, ...] = ()
    otel: tuple[str, object] | None = None
    bad_otel: str = ""
    own_rival: str = ""
    otel_rival: str = ""


EXPORTER = Exporter()
VIEW = object()
_EXPORTER_SAMPLE = Sample(argument=(EXPORTER, EXPORTER), bad_arguments=(Exporter, "otlp", 3, object()))

SAMPLES = {
    "service_name": Sample(
        argument=("a", "a"),
        bad_arguments=("", " ", "a\nb", 3, b"a"),
        own=("b", "b"),
        bad_texts=("a\x00",),
        otel=("c", "c"),
        bad_otel="a\x00",
    ),
    "run_id": Sample(argument=("a", "a"), bad_arguments=("", 3), own=("b", "b"), bad_texts=("a\x07",)),
    "resource_attributes": Sample(
        argument=({"k": "1"}, {"k": "1"}),
        bad_arguments=({"k": 1}, {1: "k"}, {"": "k"}, "k=1", [("k", "1")]),
        own=("k=%202, ", {"k": " 2"}),
        bad_texts=("k", "=v", "k=%ff"),
        otel=("k=3", {"k": "3"}),
        bad_otel="k=1,nothing",
    ),
    "enabled": Sample(
        argument=(False, False),
        bad_arguments=("false", 0, "no"),
        own=("Off", False),
        bad_texts=("maybe", "2"),
        otel=("TRUE", False),
        bad_otel="1",
        own_rival="true",
        otel_rival="false",
    ),
    "traces_exporter": Sample(
        argument=(["console"], ("console",)),
        bad_arguments=("prometheus", ("none", "otlp"), (), ("otlp", 3), 3, {"otlp"}),
        own=("none", ("none",)),
        bad_texts=("jaeger", "otlp,none", ","),
        otel=("otlp, console,otlp", ("otlp", "console")),
        bad_otel="zipkin",
    ),
    "metrics_exporter": Sample(
        argument=(("prometheus",), ("prometheus",)),
        bad_arguments=("statsd", ("none", "prometheus"), ()),
        own=("none", ("none",)),
        bad_texts=("prom",),
        otel=("console,prometheus", ("console", "prometheus")),
        bad_otel="otlp;console",
    ),
    "logs_exporter": Sample(
        argument=("console", ("console",)),
        bad_arguments=("prometheus", (), None),
        own=("none", ("none",)),
        bad_texts=("file",),
        otel=("OTLP,console", ("otlp", "console")),
        bad_otel="prometheus",
    ),
    "endpoint": Sample(
        argument=("http://a:1", "http://a:1"),
        bad_arguments=("a", "ftp://a", "http://", "http://a:99999", "http://a b", 4318, b"http://a"),
        own=("https://b/path", "https://b/path"),
        bad_texts=("b", "http://:1", "http://a:b"),
        otel=("http://[::1]:3", "http://[::1]:3"),
        bad_otel="//a:1",
    ),
    "protocol": Sample(
        argument=("grpc", "grpc"),
        bad_arguments=("http/json", "http", "", None),
        own=("http/protobuf", "http/protobuf"),
        bad_texts=("http/json",),
        otel=("GRPC", "grpc"),
        bad_otel="http/json",
        own_rival="http/protobuf",
        otel_rival="grpc",
    ),
    "headers": Sample(
        argument=({"Key": "1"}, {"key": "1"}),
        bad_arguments=({"k": 1}, {"a b": "1"}, {"k": "a\r\nx: 1"}, {"k": "é"}, {"": "1"}, "k=1"),
        own=("KEY=a%20b", {"key": "a b"}),
        bad_texts=("nothing", "a b=1", "k=a%0ax"),
        otel=("k1=Bearer x==, k2=%3D", {"k1": "Bearer x==", "k2": "="}),
        bad_otel="Bearer x",
    ),
    "compression": Sample(
        argument=("gzip", "gzip"),
        bad_arguments=("zip", True, None),
        own=("deflate", "deflate"),
        bad_texts=("br",),
        otel=("GZIP", "gzip"),
        bad_otel="zstd",
    ),
    "prometheus_host": Sample(
        argument=("0.0.0.0", "0.0.0.0"),
        bad_arguments=("", "http://a", "a b", 0),
        own=("b", "b"),
        bad_texts=("a/b",),
        otel=("::", "::"),
        bad_otel="a b",
    ),
    "prometheus_port": Sample(
        argument=(0, 0),
        bad_arguments=(-1, 65536, "9464", 1.0, True, None, 10**5000),
        own=("1", 1),
        bad_texts=("-1", "65536", "1.0", "x"),
        otel=("2", 2),
        bad_otel="http",
    ),
    "export_interval_s": Sample(
        argument=(5, 5.0),
        bad_arguments=(0, -1, float("nan"), float("inf"), "5", True),
        own=("0.5", 0.5),
        bad_texts=("0", "nan", "inf", "5s"),
        otel=("1500", 1.5),
        bad_otel="0",
    ),
    "exit_timeout_s": Sample(
        argument=(0, 0.0), bad_arguments=(-0.1, "3", None), own=("0.5", 0.5), bad_texts=("-1", "forever")
    ),
    "queue_max_bytes": Sample(
        argument=(100_000, 100_000),
        bad_arguments=(99_999, 1e6, "1000000", True),
        own=("1000000", 1_000_000),
        bad_texts=("0", "64MiB"),
    ),
    "sample_rate": Sample(
        argument=(0.25, 0.25), bad_arguments=(1.1, -0.1, float("nan"), "1"), own=("0", 0.0), bad_texts=("2", "10%")
    ),
    "call_sample_rate": Sample(
        argument=(0.25, 0.25), bad_arguments=(1.1, -0.1, "1"), own=("0", 0.0), bad_texts=("2", "10%")
    ),
    "slow_call_threshold_ms": Sample(argument=(0, 0), bad_arguments=(-1, 1.5, "1"), own=("7", 7), bad_texts=("1s",)),
    "step_sample_rate": Sample(
        argument=(0.25, 0.25), bad_arguments=(1.1, -0.1, "1"), own=("1", 1.0), bad_texts=("2", "10%")
    ),
    "trace_span_limit": Sample(argument=(1, 1), bad_arguments=(0, 1.5, "5000"), own=("7", 7), bad_texts=("0", "1e3")),
    "cardinality_limit": Sample(argument=(1, 1), bad_arguments=(0, 1.5, "2000"), own=("7", 7), bad_texts=("0", "1e3")),
    "events": Sample(
        argument=("span", "span"), bad_arguments=("logs", None, 1), own=("OFF", "off"), bad_texts=("none",)
    ),
    "step_event_interval_s": Sample(argument=(0, 0.0), bad_arguments=(-1, "1"), own=("2.5", 2.5), bad_texts=("-1",)),
    "handlers": Sample(
        argument=(["console", "console"], ("console",)),
        bad_arguments=(("a b",), ("",), 3, (None,), {"console"}),
        own=("console, my-own", ("console", "my-own")),
        bad_texts=("con sole",),
    ),
    "jsonl_path": Sample(
        argument=(pathlib.Path("a.jsonl"), "a.jsonl"),
        bad_arguments=("", 3, b"a", "a\0"),
        own=("b.jsonl", "b.jsonl"),
        bad_texts=("a\0b",),
    ),
    "gpu": Sample(
        argument=("on", "on"),
        bad_arguments=("yes", True, ""),
        own=("OFF", "off"),
        bad_texts=("true", "nvidia"),
    ),
    "gpu_interval_ms": Sample(
        argument=(100, 100),
        bad_arguments=(99, 0, -1, 1.5, "1000", True),
        own=("10000", 10_000),
        bad_texts=("99", "1e3", "5s"),
    ),
    "gpu_devices": Sample(
        argument=(("0", "GPU-1"), ("0", "gpu-1")),
        bad_arguments=(0, ["a b"], [0]),
        own=("0, 2", ("0", "2")),
        bad_texts=("a b",),
    ),
    "seed_metrics": Sample(
        argument=("both", "both"),
        bad_arguments=("on", True, None, ""),
        own=("ONLY", "only"),
        bad_texts=("on", "also", "true"),
    ),
    "handle_sigterm": Sample(
        argument=(False, False),
        bad_arguments=("false", 0, None),
        own=("no", False),
        bad_texts=("never",),
        own_rival="yes",
    ),
    "views": Sample(argument=([VIEW], (VIEW,)), bad_arguments=(VIEW, "view", ["view"], [None], None)),
    "span_exporter": _EXPORTER_SAMPLE,
    "metric_exporter": _EXPORTER_SAMPLE,
    "log_exporter": _EXPORTER_SAMPLE,
}

FIELDS = tuple(SETTINGS)
IN_ENVIRONMENT = tuple(name for name in FIELDS if SETTINGS[name].in_environment)
WITH_FALLBACK = tuple(name for name in FIELDS if SETTINGS[name].otel)


def one(name: str, value: object) -> dict[str, Any]:
    """One argument, by name."""
    return {name: value}


def lower_levels(name: str) -> dict[str, str]:
    """The rivals of an argument: the field's own variable and its fall-back, both set."""
    sample, environ = SAMPLES[name], dict[str, str]()
    if sample.own:
        environ[variable(name)] = sample.own_rival or sample.own[0]
    for fallback in SETTINGS[name].otel:
        assert sample.otel
        environ[fallback] = sample.otel_rival or sample.otel[0]
    return environ


def test_every_field_has_a_sample() -> None:
    """A new field without a sample fails here and in every test below."""
    assert tuple(SAMPLES) == FIELDS
    assert tuple(name for name in FIELDS if SAMPLES[name].own) == IN_ENVIRONMENT
    assert tuple(name for name in FIELDS if SAMPLES[name].otel) == WITH_FALLBACK
    assert all(SAMPLES[name].bad_arguments for name in FIELDS)
    assert all(SAMPLES[name].bad_texts for name in IN_ENVIRONMENT)
    assert all(SAMPLES[name].bad_otel for name in WITH_FALLBACK)


@pytest.mark.parametrize("name", FIELDS)
def test_default_holds_where_nothing_is_given(name: str) -> None:
    """An empty environment gives the declared default, as its own source."""
    resolved = Settings().resolve({})
    assert (SETTINGS[name].default, "default") == (getattr(resolved, name), resolved.source(name))
    assert not resolved.overrides_otel(name)


@pytest.mark.parametrize("name", FIELDS)
def test_argument_wins_over_every_variable(name: str) -> None:
    """An argument takes effect although the field's variable and fall-back say otherwise."""
    given, expected = SAMPLES[name].argument
    environ = lower_levels(name)
    resolved = Settings(**one(name, given)).resolve(environ)
    assert (expected, "argument") == (getattr(resolved, name), resolved.source(name))
    assert expected != getattr(Settings().resolve(environ), name)
    assert resolved.overrides_otel(name)


@pytest.mark.parametrize("name", IN_ENVIRONMENT)
def test_own_variable_wins_over_its_fallback(name: str) -> None:
    """The CRUCIBLE_OTEL_ variable takes effect although the OTEL_ one says otherwise."""
    sample = SAMPLES[name]
    assert sample.own
    environ = {**lower_levels(name), variable(name): f" {sample.own[0]} "}
    resolved = Settings().resolve(environ)
    assert (sample.own[1], variable(name)) == (getattr(resolved, name), resolved.source(name))
    assert sample.own[1] != getattr(Settings().resolve({**environ, variable(name): ""}), name)
    assert resolved.overrides_otel(name)


@pytest.mark.parametrize("name", WITH_FALLBACK)
def test_fallback_wins_over_the_default(name: str) -> None:
    """The OTEL_ variable takes effect when neither argument nor own variable is there; empty is as good as none."""
    sample, (fallback,) = SAMPLES[name], SETTINGS[name].otel
    assert sample.otel
    resolved = Settings().resolve({fallback: sample.otel[0], variable(name): " "})
    assert (sample.otel[1], fallback) == (getattr(resolved, name), resolved.source(name))
    assert sample.otel[1] != SETTINGS[name].default
    assert not resolved.overrides_otel(name)
    assert SETTINGS[name].default == getattr(Settings().resolve({fallback: ""}), name)


BAD_ARGUMENTS = [
    pytest.param(name, each, id=f"{name}-{index}")
    for name in FIELDS
    for index, each in enumerate(SAMPLES[name].bad_arguments)
]
BAD_TEXTS = [(variable(name), name, each) for name in IN_ENVIRONMENT for each in SAMPLES[name].bad_texts]
BAD_OTEL = [(SETTINGS[name].otel[0], name, SAMPLES[name].bad_otel) for name in WITH_FALLBACK]


@pytest.mark.parametrize(("name", "bad"), BAD_ARGUMENTS)
def test_bad_argument_is_refused_when_it_is_given(name: str, bad: object) -> None:
    """The error names the field, the value and what is accepted, and comes at construction."""
    with pytest.raises(ConfigurationError) as caught:
        Settings(**one(name, bad))
    shown = SETTINGS[name].parser.show(bad)
    assert (name, shown, SETTINGS[name].parser.accepted) == (
        caught.value.field,
        caught.value.value,
        caught.value.accepted,
    )
    assert f"{name}={shown!r} is not usable; accepted: {SETTINGS[name].parser.accepted}" == str(caught.value)


@pytest.mark.parametrize(("source", "name", "bad"), BAD_TEXTS)
def test_bad_own_variable_is_refused(source: str, name: str, bad: str) -> None:
    """The error names the variable, the value and what is accepted."""
    with pytest.raises(ConfigurationError) as caught:
        Settings().resolve({source: bad})
    shown = SETTINGS[name].parser.show(bad)
    assert f"{source}={shown!r} is not usable; accepted: {SETTINGS[name].parser.accepted}" == str(caught.value)


@pytest.mark.parametrize(("source", "name", "bad"), BAD_OTEL)
def test_bad_fallback_is_refused_unless_overridden(source: str, name: str, bad: str) -> None:
    """A bad OTEL_ variable counts only where it is read; headers and attributes always are."""
    with pytest.raises(ConfigurationError) as caught:
        Settings().resolve({source: bad})
    assert (source, OTEL_VARIABLES[source].parser.accepted) == (caught.value.field, caught.value.accepted)
    given, expected = SAMPLES[name].argument
    overriding = Settings(**one(name, given))
    if SETTINGS[name].merged or OTEL_VARIABLES[source].even_if_overridden:
        with pytest.raises(ConfigurationError):
            overriding.resolve({source: bad})
    else:
        assert expected == getattr(overriding.resolve({source: bad}), name)


@pytest.mark.parametrize("name", [name for name in FIELDS if SETTINGS[name].default is None])
def test_none_leaves_an_optional_field_to_the_environment(name: str) -> None:
    """So that an option of a command line can be passed on as it is."""
    assert Settings() == Settings(**one(name, None))
    if sample := SAMPLES[name].own:
        assert sample[1] == getattr(Settings(**one(name, None)).resolve({variable(name): sample[0]}), name)


def test_settings_hold_only_what_was_given() -> None:
    """Equality, replace and repr of settings that are not resolved speak of the given fields alone."""
    settings = Settings(service_name="a", prometheus_port=0)
    assert "Settings(service_name='a', prometheus_port=0)" == repr(settings)
    changed = dataclasses.replace(settings, service_name="b")
    assert Settings(service_name="b", prometheus_port=0) == changed
    assert "log" == Settings().resolve({}).events
    assert "both" == changed.resolve({"CRUCIBLE_OTEL_EVENTS": "both"}).events


def test_settings_are_frozen_and_keyword_only() -> None:
    """Nobody changes settings behind another's back, nor by position."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().service_name = "a"  # type: ignore[misc]
    parameters = inspect.signature(Settings).parameters
    assert FIELDS == tuple(parameters)
    assert {inspect.Parameter.KEYWORD_ONLY} == {each.kind for each in parameters.values()}


def test_settings_survive_pickling() -> None:
    """A spawned worker can be given the parent's settings, resolved or not."""
    settings = Settings(service_name="a", headers={"k": "v"})
    resolved = settings.resolve({"CRUCIBLE_OTEL_EVENTS": "span"})
    assert settings == pickle.loads(pickle.dumps(settings))
    again = pickle.loads(pickle.dumps(resolved))
    assert (resolved, "CRUCIBLE_OTEL_EVENTS") == (again, again.source("events"))


def test_what_is_given_is_copied() -> None:
    """A mapping or list that changes later changes no settings."""
    attributes, handlers = {"k": "1"}, ["console"]
    settings = Settings(resource_attributes=attributes, handlers=handlers)  # type: ignore[arg-type]
    attributes["k"], handlers[0] = "2", "jsonl"
    assert ({"k": "1"}, ("console",)) == (settings.resource_attributes, settings.handlers)


def test_resolving_again_changes_nothing() -> None:
    """Resolved settings are complete, whatever the environment says by then."""
    resolved = Settings(service_name="a").resolve({})
    assert resolved.is_resolved
    assert resolved is resolved.resolve({"CRUCIBLE_OTEL_EVENTS": "off"})


def test_differences_name_the_fields_that_differ() -> None:
    """Between resolved settings every field counts; else those that both hold."""
    one = Settings(service_name="a", headers={"k": "v"}).resolve({})
    other = Settings(service_name="b", endpoint="http://c").resolve({})
    assert ("service_name", "endpoint", "headers") == one.differences(other)
    assert () == one.differences(one)
    assert ("events",) == one.differences(Settings(service_name="a", events="off"))
    exporters: list[Any] = [Settings(span_exporter=Exporter()).resolve({}) for _ in range(2)]
    assert ("span_exporter",) == exporters[0].differences(exporters[1])


def test_help_tells_every_field() -> None:
    """From the same words as the reference."""
    assert Settings.__doc__
    assert all(f"{name}: {each.doc}" in Settings.__doc__ for name, each in SETTINGS.items())
