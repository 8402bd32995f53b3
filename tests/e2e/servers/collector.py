"""A real OpenTelemetry Collector with a configuration as users have it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Final

from scripts.backends import COLLECTOR
from tests.e2e.servers.base import GIVE_UP_S, Server, environment, free_ports, get
from tests.e2e.servers.exported import Exported

Config = Path | Mapping[str, Any]
"""A file, or what stands in one."""

# What listens: kind of component, its type, path to its settings.
_LISTENERS: Final = (
    ("receivers", "otlp", ("protocols", "grpc")),
    ("receivers", "otlp", ("protocols", "http")),
    ("exporters", "prometheus", ()),
    ("extensions", "health_check", ()),
)
_PORT: Final = re.compile(r"\b\d{4,5}\b")
_READY: Final = "health_check/ready"
# What the Collector has when nothing is said.
_OWN_READER: Final = {
    "pull": {
        "exporter": {
            "prometheus": {
                "with_resource_constant_labels": {"included": []},
                "without_scope_info": True,
                "without_type_suffix": True,
                "without_units": True,
            }
        }
    }
}


class Collector(Server):
    """Runs with a configuration, at ports of its own.

    What listens (OTLP, the Prometheus page, a health check, its own metrics) is moved to free ports of loopback, so
    that many can run at once; only a port that the test chose, in ``environ`` or in a dict, stays. A health check of
    ours is added: it says when all pipelines run.

    Args:
        configs: The configuration; of several, later ones are merged over earlier ones as ``--config`` does it.
        folder: For its files: working directory, log.
        environ: Environment variables, for ``${env:...}``.
        args: More arguments, ``--feature-gates=...`` for one.

    Attributes:
        config: The whole configuration, resolved.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        folder: Path,
        environ: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        written = [f"--config={path}" for path in _files(configs, folder)]
        resolved = _resolve([*written, *args], folder, environ)
        overlay = folder / "overlay.json"
        overlay.write_text(json.dumps(_overlay(resolved, _chosen(configs, environ)), indent=2))
        written.append(f"--config={overlay}")
        self.config: dict[str, Any] = _resolve([*written, *args], folder, environ)
        super().__init__([COLLECTOR.program("otelcol"), *written, *args], folder, environ)

    def __enter__(self) -> Collector:
        super().__enter__()
        return self

    def is_ready(self) -> bool:
        """Whether all its pipelines run."""
        return bool(get(self._url("extensions", _READY)))

    @property
    def otlp_grpc(self) -> str:
        """Where it takes OTLP/gRPC, with the scheme as the SDK wants it."""
        return self._url("receivers", "otlp", "protocols", "grpc")

    @property
    def otlp_http(self) -> str:
        """Where it takes OTLP/HTTP, without the path of a signal."""
        return self._url("receivers", "otlp", "protocols", "http")

    @property
    def metrics_url(self) -> str:
        """The page with metrics about itself."""
        readers = self.config["service"]["telemetry"]["metrics"]["readers"]
        (page,) = (reader["pull"]["exporter"]["prometheus"] for reader in readers if "pull" in reader)
        return f"http://{page['host']}:{page['port']}/metrics"

    def page(self, exporter: str = "prometheus") -> str:
        """Return the address of the page that a Prometheus exporter serves."""
        return f"{self._url('exporters', exporter)}/metrics"

    def exported(self, path: str | Path) -> Exported:
        """Return what a file exporter writes to a path, which may be relative to the Collector's folder."""
        return Exported(self.folder / path)

    def own_metric(self, name: str) -> float:
        """Return what it counts about itself, ``otelcol_receiver_accepted_spans`` for one, all series added up.

        A counter goes by its name with or without ``_total``; what was not counted yet is 0.
        """
        lines = (line.rpartition(" ") for line in get(self.metrics_url).splitlines() if not line.startswith("#"))
        wanted = {name, f"{name}_total"}
        return sum(float(value) for series, _, value in lines if series.partition("{")[0] in wanted)

    def _url(self, *path: str) -> str:
        settings: Any = self.config
        for key in path:
            assert key in settings, f"the configuration has no {'.'.join(path)}"
            settings = settings[key]
        return f"{'https' if settings.get('tls') else 'http'}://{settings['endpoint']}"


def validate(*configs: Config, folder: Path, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Have the Collector check a configuration.

    Args:
        *configs: The configuration; later ones are merged over earlier ones.
        folder: Working directory, and for a configuration that is no file yet.
        environ: Environment variables, for ``${env:...}``.

    Returns:
        The exit status, 0 when all is well, and what it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _run("validate", [f"--config={path}" for path in _files(configs, folder)], folder, environ)


def _files(configs: Sequence[Config], folder: Path) -> Iterator[Path]:
    for number, config in enumerate(configs):
        if isinstance(config, Path):
            yield config.absolute()
        else:
            path = folder / f"config_{number}.json"
            path.write_text(json.dumps(config, indent=2))
            yield path


def _resolve(arguments: Sequence[str], folder: Path, environ: Mapping[str, str] | None) -> dict[str, Any]:
    """Have the Collector read, merge and check a configuration."""
    gates = [] if any("feature-gates" in each for each in arguments) else ["--feature-gates=otelcol.printInitialConfig"]
    status, text = _run("print-config", ["--mode=unredacted", "--format=json", *gates, *arguments], folder, environ)
    assert 0 == status, f"the Collector refuses the configuration:\n{text}"
    resolved: dict[str, Any] = json.loads(text[text.index("{") :])
    return resolved


def _run(command: str, arguments: Sequence[str], folder: Path, environ: Mapping[str, str] | None) -> tuple[int, str]:
    done = subprocess.run(
        [COLLECTOR.program("otelcol"), command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=folder,
        env=environment(environ),
        timeout=GIVE_UP_S,
    )
    return done.returncode, done.stdout


def _chosen(configs: Sequence[Config], environ: Mapping[str, str] | None) -> set[str]:
    """Return the ports that a test spelled out itself."""
    spelled = [*(environ or {}).values(), *(json.dumps(config) for config in configs if isinstance(config, Mapping))]
    return {port for text in spelled for port in _PORT.findall(text)}


def _overlay(config: Mapping[str, Any], chosen: Set[str]) -> dict[str, Any]:
    """Return what is merged over a configuration: free ports instead of those in files, readiness, own metrics."""
    service = config.get("service") or {}
    readers = ((service.get("telemetry") or {}).get("metrics") or {}).get("readers", [_OWN_READER])
    places = [place for place, endpoint in _listening(config) if endpoint.rpartition(":")[2] not in chosen]
    ready, *free = free_ports(1 + len(places) + len(readers))
    overlay: dict[str, Any] = {
        "extensions": {_READY: {"endpoint": f"127.0.0.1:{ready}"}},
        # Lists are not merged: the whole one is due.
        "service": {
            "extensions": [*(service.get("extensions") or ()), _READY],
            "telemetry": {"metrics": {"readers": [_at_own_port(reader, free.pop(), chosen) for reader in readers]}},
        },
    }
    for place in places:
        settings = overlay
        for key in place:
            settings = settings.setdefault(key, {})
        settings["endpoint"] = f"127.0.0.1:{free.pop()}"
    return overlay


def _listening(config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the place of each listener in a configuration, and its address; empty where the default holds."""
    for kind, of, path in _LISTENERS:
        for name in config.get(kind) or {}:
            settings: Any = config
            place = (kind, name, *path)
            if name.partition("/")[0] == of:
                with contextlib.suppress(KeyError):
                    for key in place:
                        settings = (settings or {})[key]
                    yield place, (settings or {}).get("endpoint") or ""


def _at_own_port(reader: Mapping[str, Any], port: int, chosen: Set[str]) -> Mapping[str, Any]:
    """Return a reader of the Collector's own metrics; one that serves a page does so at this port of loopback."""
    page = ((reader.get("pull") or {}).get("exporter") or {}).get("prometheus")
    if page is None or str(page.get("port")) in chosen:
        return reader
    return {"pull": {"exporter": {"prometheus": {**page, "host": "127.0.0.1", "port": port}}}}
