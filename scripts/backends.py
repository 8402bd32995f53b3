"""Build the real servers that the end-to-end tests run, from Go modules, into a cache of the user's.

Run it as ``python scripts/backends.py [NAME ...]`` (``make backends``). What is built once is found by every later run
and checkout: a folder of the cache carries the version, and for the Collector, which is put together here, a digest of
its sources. A build happens under another name and is renamed when it is complete; of two at once one waits.

``CRUCIBLE_OTEL_BACKENDS`` puts the cache elsewhere. ``GOPROXY``, ``GOFLAGS`` and the like mean what they mean to Go.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COLLECTOR_SOURCES: Final = Path(__file__).parents[1] / "tests" / "e2e" / "collector"

_PROGRESS_S: Final = 15.0
_ERROR_LINES: Final = 30


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A server to build.

    Attributes:
        name: What it is called here.
        version: Its release.
        programs: Name of each program -> its package, relative to the sources.
        module: The Go module that it comes from; empty for the Collector, whose sources are in this repository.
        tags: Build tags.
    """

    name: str
    version: str
    programs: Mapping[str, str]
    module: str = ""
    tags: str = ""

    @property
    def folder(self) -> Path:
        """Where its programs are, once built."""
        return cache() / "-".join(filter(None, [self.name, self.version, "" if self.module else _digest()]))

    @property
    def is_built(self) -> bool:
        """Whether its programs are there."""
        return all((self.folder / program).is_file() for program in self.programs)

    def program(self, name: str) -> Path:
        """Return one of its programs.

        Raises:
            FileNotFoundError: When it is not built yet.
        """
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; run: make backends")
        return path


COLLECTOR: Final = Backend(name="otelcol", version="0.144.0", programs={"otelcol": "."})
JAEGER: Final = Backend(
    name="jaeger", version="1.76.0", programs={"jaeger": "./cmd/jaeger"}, module="github.com/jaegertracing/jaeger"
)
PROMETHEUS: Final = Backend(
    name="prometheus",
    version="0.314.0",
    programs={"prometheus": "./cmd/prometheus", "promtool": "./cmd/promtool"},
    module="github.com/prometheus/prometheus",
    # The clients of two dozen clouds take long to compile; these, files and HTTP are what our configurations name.
    tags="remove_all_sd,enable_dns_sd,enable_kubernetes_sd",
)
BACKENDS: Final = (COLLECTOR, JAEGER, PROMETHEUS)


class BuildError(Exception):
    """A server that could not be built; the message says why."""


def cache() -> Path:
    """Return the folder that holds what was built."""
    if chosen := os.environ.get("CRUCIBLE_OTEL_BACKENDS"):
        return Path(chosen).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "crucible_otel" / "backends"


def build(backend: Backend) -> None:
    """Build a server into the cache; wait when somebody else is doing just that.

    Raises:
        BuildError: When Go refuses.
    """
    started_s = time.monotonic()
    with _alone(backend):
        if backend.is_built:
            return
        unfinished = backend.folder.with_name(f".{backend.folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        sources = _download(backend) if backend.module else COLLECTOR_SOURCES
        for program, package in backend.programs.items():
            # Neither somebody's workspace nor the state of a checkout nor a vendor folder has a say.
            how = ["-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", f"-tags={backend.tags}", "-v"]
            _go(f"{backend.name} {backend.version}", ["build", *how, "-o", str(unfinished / program), package], sources)
        shutil.rmtree(backend.folder, ignore_errors=True)
        unfinished.rename(backend.folder)
    _say(f"{backend.name} {backend.version}: built in {time.monotonic() - started_s:.0f} s")


def main(names: Sequence[str]) -> int:
    """Build what is missing of these servers, of all when none is named; return the exit status."""
    known = {backend.name: backend for backend in BACKENDS}
    if unknown := [name for name in names if name not in known]:
        return _fail(f"there is no backend {', '.join(unknown)}; known are {', '.join(known)}")
    wanted = [known[name] for name in names] or BACKENDS
    missing = [backend for backend in wanted if not backend.is_built]
    for backend in wanted:
        if backend not in missing:
            _say(f"{backend.name} {backend.version}: cached")
    if missing and shutil.which("go") is None:
        servers = ", ".join(f"{backend.name} {backend.version}" for backend in missing)
        return _fail(f"Go is needed to build {servers}: install Go 1.26 or newer (https://go.dev/dl), `go` on the PATH")
    for backend in missing:
        try:
            build(backend)
        except BuildError as error:
            return _fail(f"{backend.name} {backend.version} could not be built: {error}")
    return 0


def _digest() -> str:
    """Return a digest of what the Collector is made from."""
    contents = (COLLECTOR_SOURCES.joinpath(name).read_bytes() for name in ("main.go", "go.mod", "go.sum"))
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:12]


@contextmanager
def _alone(backend: Backend) -> Iterator[None]:
    """Keep others from building the same; the system lets go of it however this process ends."""
    backend.folder.parent.mkdir(parents=True, exist_ok=True)
    with backend.folder.with_name(f".{backend.folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(backend: Backend) -> Path:
    """Fetch a module and return its folder, which is read-only and carries its own go.sum."""
    # Away from any module, whose requirements would count.
    with tempfile.TemporaryDirectory() as nowhere:
        of = f"{backend.module}@v{backend.version}"
        told = _go(f"{backend.name} {backend.version}", ["mod", "download", "-json", of], Path(nowhere))
    return Path(json.loads(told)["Dir"])


def _go(what: str, arguments: Sequence[str], folder: Path) -> str:
    """Run Go in a folder, saying now and then how far it is; return what it printed."""
    started_s = said_s = time.monotonic()
    downloads = packages = 0
    last: deque[str] = deque(maxlen=_ERROR_LINES)
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(
            ["go", *arguments],
            cwd=folder,
            env={**os.environ, "GOWORK": "off"},
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as go:
            assert go.stderr is not None
            for line in go.stderr:
                last.append(line)
                downloading = line.startswith("go: downloading")
                downloads, packages = downloads + downloading, packages + (not downloading)
                if (now_s := time.monotonic()) - said_s >= _PROGRESS_S:
                    said_s = now_s
                    _say(f"{what}: {downloads} modules fetched, {packages} packages built, {now_s - started_s:.0f} s")
        output.seek(0)
        told = output.read()
    if go.returncode:
        raise BuildError(f"`go {' '.join(arguments)}` in {folder} ended with {go.returncode}\n{''.join(last)}{told}")
    return told


def _say(text: str) -> None:
    print(text, flush=True)


def _fail(text: str) -> int:
    print(text, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
