"""The Collector's files hold what their comments and the guide promise."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from crucible_otel.semconv import registry, training, workflow
from crucible_otel.semconv.names import SCOPE_NAME
from tests.config_files.files import (
    COLLECTORS,
    CONFIG,
    GUIDE,
    REPOSITORY,
    collector,
    collector_files,
    every_file,
    load,
    variables,
    walk,
)

TESTED: Final = (REPOSITORY / "tests" / "e2e" / "collector" / "main.go").read_text("utf-8")
"""The Collector that the files are validated with."""

NOT_BUILT: Final[Mapping[str, str]] = {}
"""Components that our files name and the tested Collector lacks -> why. The guide repeats the list."""

_CLASSES: Final = ("receivers", "processors", "exporters", "connectors", "extensions")
_SINGULAR: Final = {name: name.removesuffix("s") for name in _CLASSES}
# Types that are called otherwise than the package that holds them.
_PACKAGES: Final = {
    ("exporters", "otlp_grpc"): "otlpexporter",
    ("exporters", "otlp_http"): "otlphttpexporter",
    ("extensions", "file_storage"): "filestorage",
}

every_collector = pytest.mark.parametrize("name", COLLECTORS)


def components(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield class, id and settings of each component."""
    for group in _CLASSES:
        for identity, settings in (config.get(group) or {}).items():
            yield group, identity, settings


def listeners(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what listens and where."""
    for group, identity, settings in components(config):
        if group in ("receivers", "extensions") or identity.startswith("prometheus"):
            for path, value in walk(settings, (group, identity)):
                if path[-1] == "endpoint":
                    yield "/".join(path), str(value).rpartition(":")[0]
    for reader in config["service"]["telemetry"]["metrics"]["readers"]:
        yield "own metrics", reader["pull"]["exporter"]["prometheus"]["host"]


def kept_condition() -> str:
    """Return the condition of the spans that the gateway always keeps."""
    (condition,) = load(CONFIG / "gateway.yaml")["processors"]["filter/without_kept"]["traces"]["span"]
    return str(condition)


@every_collector
def test_components_are_those_of_the_tested_collector(name: str) -> None:
    """What is validated is what is written; what could not be is listed."""
    built = set(re.findall(r"\b(\w+)\.NewFactory\(\)", TESTED))
    used = {
        f"{group}/{kind}": _PACKAGES.get((group, kind), kind.replace("_", "") + _SINGULAR[group])
        for group, identity, _ in components(collector(name))
        for kind in [identity.partition("/")[0]]
    }
    assert set() == {type_ for type_, package in used.items() if package not in built} - set(NOT_BUILT)


@every_collector
def test_every_component_is_used(name: str) -> None:
    """What stands in a file has a place in a pipeline, and pipelines name what is there."""
    config = collector(name)
    service = config["service"]
    used = {("extensions", each) for each in service.get("extensions", [])}
    for pipeline in service["pipelines"].values():
        for group, ids in pipeline.items():
            used |= {("connectors" if each in config.get("connectors", {}) else group, each) for each in ids}
    assert {(group, identity) for group, identity, _ in components(config)} == used


@every_collector
def test_it_listens_on_loopback_by_default(name: str) -> None:
    """Only a variable opens a port to others."""
    places = dict(listeners(collector(name)))
    assert places
    assert [] == [place for place, host in places.items() if not ipaddress.ip_address(host).is_loopback]


@every_collector
def test_it_sends_to_loopback_or_with_tls(name: str) -> None:
    """Plain text has loopback as its default destination."""
    for group, identity, settings in components(collector(name)):
        if group != "exporters" or identity.partition("/")[0] not in {"otlp_grpc", "otlp_http", "loadbalancing"}:
            continue
        found = dict(walk(settings))
        insecure = [value for path, value in found.items() if path[-2:] == ("tls", "insecure")]
        targets = [
            str(value) for path, value in found.items() if path[-1:] == ("endpoint",) or "hostnames" in path[:-1]
        ]
        assert insecure
        assert targets
        assert not any(insecure) or all(target.startswith("127.0.0.1:") for target in targets), identity


def test_tls_is_on_everywhere_between_machines() -> None:
    """With the TLS file no connection between agent, gateway and backend is plain, and each side is asked who it is."""
    agent, gateway = collector("agent with TLS"), collector("gateway with TLS")
    for group, identity, settings in [*components(agent), *components(gateway)]:
        if group == "exporters":
            assert True not in [value for path, value in walk(settings) if path[-2:] == ("tls", "insecure")], identity
    for exporter in agent["exporters"].values():
        assert {"ca_file", "cert_file", "key_file"} <= set(exporter["protocol"]["otlp"]["tls"])
    for protocol in gateway["receivers"]["otlp"]["protocols"].values():
        assert {"client_ca_file", "cert_file", "key_file"} <= set(protocol["tls"])


@every_collector
def test_memory_is_limited_first(name: str) -> None:
    """A limiter behind something else would let that grow."""
    for pipeline in collector(name)["service"]["pipelines"].values():
        assert "memory_limiter" == pipeline["processors"][0]


@every_collector
def test_what_is_sent_is_batched_and_queued_by_its_exporter(name: str) -> None:
    """The batch processor hides errors from senders; it is not used."""
    config = collector(name)
    assert not [identity for _, identity, _ in components(config) if identity.partition("/")[0] == "batch"]
    for group, identity, settings in components(config):
        if group == "exporters" and identity.partition("/")[0] in {"otlp_grpc", "loadbalancing"}:
            assert "batch" in settings["sending_queue"], identity
            assert name in {"minimal", "compose"} or "file_storage/queue" == settings["sending_queue"]["storage"]


def test_span_metrics_come_before_sampling() -> None:
    """No sampler or filter stands between the receiver and the counter of spans."""
    pipelines = collector("gateway")["service"]["pipelines"]
    feeding = [pipeline for pipeline in pipelines.values() if "spanmetrics" in pipeline["exporters"]]
    assert [["memory_limiter"]] == [pipeline["processors"] for pipeline in feeding]


def test_one_condition_says_which_spans_are_kept() -> None:
    """Dropped behind the sampler is exactly what goes past it."""
    processors = load(CONFIG / "gateway.yaml")["processors"]
    assert [f"not ({kept_condition()})"] == processors["filter/only_kept"]["traces"]["span"]
    policies = {policy["name"]: policy for policy in processors["tail_sampling"]["policies"]}
    (structure,) = policies["structure"]["ottl_condition"]["span"]
    assert structure in kept_condition()
    slow = policies["slow"]["latency"]["threshold_ms"]
    assert f">= {slow} * 1000000" in kept_condition()
    assert ["ERROR"] == policies["failed"]["status_code"]["status_codes"]


def test_kept_spans_are_those_of_the_conventions() -> None:
    """Every operation of workflows and training is kept, and no name is kept that nobody emits."""
    found = re.search(r'IsMatch\(name, "(.*?)"\)', kept_condition())
    assert found is not None
    pattern = re.compile(found[1].replace("$$", "$"))
    structural = {spec.span for family in (workflow, training) for spec in family.OPERATIONS}
    assert set() == {span for span in structural if not pattern.search(span)}
    known = {spec.span for spec in registry.OPERATIONS.values()} | {event.span for event in registry.EVENTS.values()}
    named = re.search(r"\((.*?)\)", pattern.pattern)
    assert named is not None
    assert set() == set(named[1].split("|")) - {span.partition(" ")[0] for span in known}


@pytest.mark.parametrize("name", ["minimal", "gateway"])
def test_our_scope_is_the_one_without_labels(name: str) -> None:
    """As the library's own page has it."""
    (statements,) = collector(name)["processors"]["transform/own_scope"]["metric_statements"]
    assert [f'scope.name == "{SCOPE_NAME}"'] == statements["conditions"]


def test_every_variable_is_documented() -> None:
    """The guide lists the variables of all files with their defaults."""
    guide = GUIDE.read_text("utf-8")
    listed = set(re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", guide, re.MULTILINE))
    read = {name for path in collector_files() for name in variables(path)}
    assert read == listed
    for path in collector_files():
        for name, default in variables(path).items():
            assert re.search(rf"^\| `{name}` \|.*`{re.escape(default)}`", guide, re.MULTILINE), (
                path.name,
                name,
                default,
            )


def test_components_that_are_not_validated_are_documented() -> None:
    """One list, with reasons."""
    guide = GUIDE.read_text("utf-8")
    assert [] == [component for component, reason in NOT_BUILT.items() if component not in guide or reason not in guide]
    assert NOT_BUILT or "lacks none of the components" in guide


def test_no_file_holds_a_secret() -> None:
    """Neither a password nor a token nor a key, nor an address with user information."""
    secret = re.compile(
        r"""-----BEGIN | ://[^/\s:@]+:[^/\s@]+@ | \bBearer\s+\S{8,} | \bAKIA[0-9A-Z]{16}\b
          | (password|passwd|secret|token|api_?key|authorization)["']?\s*[:=]\s*["']?[^\s"'#{}\[\]]""",
        re.VERBOSE | re.IGNORECASE,
    )
    harmless = re.compile(r"secretName: otel-(agent|gateway)-tls|automountServiceAccountToken: false")
    for path in every_file():
        for line in path.read_text("utf-8").splitlines():
            assert not secret.search(harmless.sub("", line)), (path.name, line)
