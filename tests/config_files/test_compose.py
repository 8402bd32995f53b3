"""The docker compose project fits its schema, the tested versions and the files that it mounts; it is not run here."""

from __future__ import annotations

import re
from typing import Any, Final

import jsonschema  # type: ignore[import-untyped]  # as yaml
import pytest

from scripts import backends
from tests.config_files.files import COLLECTORS, CONFIG, collector, load, schema, variables

COMPOSE: Final[dict[str, Any]] = load(CONFIG / "docker-compose.yaml")
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
PINNED: Final = re.compile(r"v?\d+\.\d+\.\d+")

every_service = pytest.mark.parametrize("name", SERVICES)


def mounts(name: str) -> list[tuple[str, str]]:
    """Return source and target of what a service mounts."""
    return [(source, target) for source, target, *_ in (each.split(":") for each in SERVICES[name].get("volumes", []))]


def test_it_fits_the_compose_specification() -> None:
    """Unknown keys are refused by it."""
    jsonschema.validate(COMPOSE, schema("compose"))
    with pytest.raises(jsonschema.ValidationError, match="imaeg"):
        jsonschema.validate({"services": {"x": {"imaeg": "y"}}}, schema("compose"))


@every_service
def test_images_are_pinned(name: str) -> None:
    """To a full version."""
    assert PINNED.fullmatch(SERVICES[name]["image"].rpartition(":")[2])


def test_images_are_of_the_tested_versions() -> None:
    """Prometheus numbers its modules 0.3xx for 3.xx; Jaeger 1.x and 2.y are one release."""
    tags = {name: service["image"].rpartition(":")[2] for name, service in SERVICES.items()}
    assert backends.COLLECTOR.version == tags["collector"]
    major, minor, patch = re.fullmatch(r"0\.(\d)(\d\d)\.(\d+)", backends.PROMETHEUS.version).groups()  # type: ignore[union-attr]
    assert f"v{major}.{int(minor)}.{patch}" == tags["prometheus"]
    assert ("1.76.0", "2.13.0") == (backends.JAEGER.version, tags["jaeger"])


@every_service
def test_ports_are_published_on_loopback_only(name: str) -> None:
    """A laptop in a café."""
    assert [] == [port for port in SERVICES[name].get("ports", []) if not port.startswith("127.0.0.1:")]


@every_service
def test_what_it_mounts_is_there(name: str) -> None:
    """Files of this repository, read only, or named volumes."""
    for source, _ in mounts(name):
        assert (CONFIG / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], source
    assert [] == [
        each for each in SERVICES[name].get("volumes", []) if each.startswith("./") and not each.endswith(":ro")
    ]


@every_service
def test_what_it_reads_is_mounted(name: str) -> None:
    """A path below /etc in its arguments or environment is one that a mount provides."""
    text = " ".join([*SERVICES[name].get("command", []), *SERVICES[name].get("environment", {}).values()])
    targets = tuple(target for _, target in mounts(name))
    assert [] == [path for path in re.findall(r"/etc/[\w./-]+", text) if not path.startswith(targets)]


def test_the_collector_is_told_what_it_reads() -> None:
    """Its files are those that are validated, and its variables exist."""
    files = [argument.rpartition("/")[2] for argument in SERVICES["collector"]["command"]]
    assert [file.rpartition("/")[2] for file in COLLECTORS["compose"]] == files
    known = {name for file in COLLECTORS["compose"] for name in variables(CONFIG / file)}
    assert set() == set(SERVICES["collector"]["environment"]) - known - {"GOMEMLIMIT"}
    assert (
        f"{collector('compose')['processors']['memory_limiter']['limit_mib']}MiB"
        == (SERVICES["collector"]["environment"]["GOMEMLIMIT"])
    )


def test_services_find_each_other() -> None:
    """Each address inside the project names a service."""
    texts = [
        *SERVICES["collector"]["environment"].values(),
        *(path.read_text("utf-8") for path in (CONFIG / "compose").rglob("*.yaml")),
    ]
    hosts = {host for text in texts for host in re.findall(r"\b([a-z][a-z-]*):\d{4,5}\b", text)}
    assert hosts
    assert set() == hosts - set(SERVICES)


def test_prometheus_keeps_the_labels_of_the_processes() -> None:
    """Without honor_labels all ranks would be one instance, the Collector."""
    jobs = {job["job_name"]: job for job in load(CONFIG / "compose" / "prometheus.yaml")["scrape_configs"]}
    assert jobs["crucible-otel"]["honor_labels"] is True


def test_tempo_stores_where_its_volume_is() -> None:
    """In the folder that belongs to its user."""
    trace = load(CONFIG / "compose" / "tempo.yaml")["storage"]["trace"]
    ((_, folder),) = [(source, target) for source, target in mounts("tempo") if source == "tempo"]
    assert "local" == trace["backend"]
    assert all(trace[part]["path"].startswith(f"{folder}/") for part in ("wal", "local"))
