"""A ``libnvidia-ml.so.1`` without a GPU, for the real pynvml: it answers what a scenario file says.

In a test, in this process or in another one::

    nvml = Stub(tmp_path, "h100x8")                      # a file of tests/gpu/scenarios, or the text of a scenario
    with nvml.loaded(): pynvml.nvmlInit(); ...           # here
    subprocess.run([...], env={**os.environ, **nvml.environ})  # there

``nvml.add("gpu 0 temperature_c = 91")`` changes what a running program reads next; ``nvml.count("nvmlInitWithFlags")``,
``nvml.count("nvmlDeviceGetPowerUsage", gpu=0)`` and ``nvml.count("field.83")`` say how often it asked, in all processes
together; ``nvml.running("nvmlDeviceGetPowerUsage")`` how many calls have not returned; ``nvml.misuse()`` what it did
that a user of NVML must not do: calls before the start or after the end, two at once, an end while others run, use of
what was freed.

A scenario is read line by line; of two lines about the same thing the later wins; ``#`` begins a comment::

    gpus = 8
    system driver_version = 550.54.15
    gpu * name = NVIDIA H100 80GB HBM3      # of all GPUs
    gpu 0-3 uuid = GPU-{i}                  # {i}: the number of the GPU (or of the MIG instance)
    mig 0.1 gpu_instance_id = 2             # of a MIG instance of GPU 0

What a scenario does not mention is ``NOT_SUPPORTED``. The keys are the table ``KEYS`` in ``nvml_stub.c``; where NVML
numbers things they may end in a number: ``threshold_c.0``, ``fan_percent.1``, ``violation_ns.0`` (performance policy),
``ecc_corrected_volatile.2`` (memory location), ``nvlink_tx_kib.3`` (link), ``gpm.2`` (metric), ``field.83`` or
``field.138.3`` (field, scope). Fields and functions that tell the same read the same key: ``energy_mj`` is what
``nvmlDeviceGetTotalEnergyConsumption`` and field 83 return.

A value is a text, a number, or a number that changes::

    !TIMEOUT                     an error instead, also within a list
    ramp(1000, 350[, 99000])     1000 and 350 more each second, until 99000
    list(1, 2, !UNKNOWN, 4)      one after the other, at each call of a function; then the last one stays
    cycle(1, 2, 3)               the same, from the start again
    steps(0.5; 1, 2, 3)          one after the other, each half a second; then the last one stays
    loop(0.5; 1, 2, 3)           the same, from the start again
    ull: 5                       the type of a field's value: double, uint, ulong, ull, sll, sint, ushort

Time is counted from when a process first reads the scenario, or from ``system start = <Unix seconds>``; with
``system now = 12.5`` it stands still. Further lines::

    error FUNCTION[@GPU[.MIG]] ERROR [calls N | calls N-M | calls N- | every N]
    hang FUNCTION[@GPU[.MIG]] SECONDS [calls ... | every N]
    process GPU compute|graphics|mps PID|self|parent BYTES|none [gi=N] [ci=N] [sm=N] [mem=N] [enc=N] [dec=N]
    event GPU[.MIG] xid|TYPE DATA [after SECONDS]

A function may be a pattern (``nvmlDeviceGet*``), a field (``field.83``) or a GPM metric (``gpm.2``); calls are counted
by each line for itself, anew when the file changed. A hang ends early when its line is gone. An event is delivered once
to each event set; one with a time only to sets that were registered before. ``gpu 1 lost = 1`` is a GPU that fell off
the bus. ``system fork_safe = 0`` makes a forked child start anew. ``system without = f, g`` builds the library without
those functions, as an older driver's.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import mmap
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pynvml

__all__ = ["SCENARIOS", "GccMissingError", "Stub", "library"]

HERE: Final = Path(__file__).parent
SOURCE: Final = HERE / "nvml_stub.c"
SCENARIOS: Final = HERE.parent / "scenarios"
SONAME: Final = "libnvidia-ml.so.1"
FLAGS: Final = ("-shared", "-fPIC", "-O2", "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
VARIABLES: Final = ("NVML_STUB_SCENARIO", "NVML_STUB_CALLS", "NVML_STUB_RELOAD_MS")

# The counters' file, see nvml_stub.c.
HEADER: Final = struct.Struct("=8s4I")
INSTANCES: Final = 8
TOTAL, FINISHED, SLOTS = 0, 1, 2

_loaded: ctypes.CDLL | None = None


class GccMissingError(RuntimeError):
    """There is no C compiler to build the library with."""


def library(without: Sequence[str] = ()) -> Path:
    """Return the library, built when this source has not been built before on this machine.

    Args:
        without: Functions that it is not to have.

    Raises:
        GccMissingError: There is no gcc.
        RuntimeError: Where it is kept belongs to another user.
    """
    digest = hashlib.sha256(repr((SOURCE.read_bytes(), FLAGS, sorted(without))).encode()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir()) / f"crucible_otel_nvml_{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise RuntimeError(f"{cache} is somebody else's; what is in it will not be loaded")
    target = cache / digest / SONAME
    if target.exists():
        return target
    gcc = shutil.which("gcc")
    if gcc is None:
        raise GccMissingError("the tests of GPU telemetry build a C library and need gcc; Debian: apt-get install gcc")
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        exports = Path(folder) / "exports"
        exports.write_text(f"{{ global: nvml*; local: {' '.join(f'{name};' for name in sorted(without))} *; }};")
        built = Path(folder) / SONAME
        link = [f"-Wl,-soname,{SONAME}", f"-Wl,--version-script={exports}", "-lpthread"]
        subprocess.run([gcc, *FLAGS, "-o", str(built), str(SOURCE), *link], check=True)
        built.rename(target)
    return target


class Stub:
    """One scenario, and what was asked of it.

    Args:
        folder: Where the scenario and the counters are kept; one stub a folder.
        scenario: The name of a file in ``tests/gpu/scenarios``, or a scenario's text (several lines).
        reload_ms: Look at the file at most this often, so that measurements are not of the file system.
    """

    def __init__(self, folder: Path, scenario: str, reload_ms: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.scenario_path = folder / "scenario.nvml"
        self.calls_path = folder / "calls.bin"
        self._reload_ms = reload_ms
        self.write(scenario)
        without = re.search(r"^system without *=(.*)$", self.text, re.MULTILINE)
        self.library = library([name.strip() for name in without[1].split(",")] if without else [])

    @property
    def text(self) -> str:
        """The scenario as it is now."""
        return self.scenario_path.read_text()

    def write(self, scenario: str) -> None:
        """Put another scenario in its place: the next call sees it."""
        text = scenario if "\n" in scenario or "=" in scenario else (SCENARIOS / f"{scenario}.nvml").read_text()
        written = self.scenario_path.with_suffix(".new")
        written.write_text(text)
        written.replace(self.scenario_path)

    def add(self, *lines: str) -> None:
        """Add lines, which win over earlier ones: the next call sees them."""
        self.write("\n".join((self.text, *lines, "")))

    def remove(self, line: str) -> None:
        """Take a line away, as it was written."""
        kept = self.text.splitlines()
        kept.remove(line)
        self.write("\n".join((*kept, "")))

    @property
    def environ(self) -> Mapping[str, str]:
        """What a process must have in its environment from the start."""
        paths = [str(self.library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {"LD_LIBRARY_PATH": ":".join(paths), **self._settings()}

    def _settings(self) -> dict[str, str]:
        values = (str(self.scenario_path), str(self.calls_path), str(self._reload_ms))
        return dict(zip(VARIABLES, values, strict=True))

    @contextmanager
    def loaded(self) -> Iterator[Stub]:
        """Have pynvml in this process find this library, as if it was installed.

        Raises:
            RuntimeError: The process has another library of that name already.
        """
        _preload(self.library)
        before = {name: os.environ.get(name) for name in VARIABLES}
        os.environ.update(self._settings())
        _forget()
        try:
            yield self
        finally:
            _forget()
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def count(self, name: str, gpu: int | None = None, mig: int | None = None) -> int:
        """Return how often a function or a field (``field.83``) was asked for: at all, or of a device."""
        if gpu is None:
            return self._read(name, TOTAL)
        return self._read(name, SLOTS + gpu * (INSTANCES + 1) + (0 if mig is None else 1 + mig))

    def called(self) -> list[str]:
        """Return the functions and fields (``field.83``) that were asked for."""
        with self.calls_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as counters:
            _, functions, fields, columns, name_size = HEADER.unpack_from(counters, 0)
            rows = HEADER.size + functions * name_size
            names = [*_names(counters, functions, name_size), *(f"field.{number}" for number in range(fields))]
            return [
                name
                for row, name in enumerate(names)
                if struct.unpack_from("=Q", counters, rows + row * columns * 8)[0] and not name.startswith("misuse_")
            ]

    def running(self, name: str) -> int:
        """Return how many calls of a function have begun and not returned."""
        return max(0, self._read(name, TOTAL) - self._read(name, FINISHED))

    def misuse(self) -> dict[str, int]:
        """Return what was done that must not be done, and how often."""
        names = ("uninitialized", "concurrent", "shutdown_while_busy", "freed")
        found = {name: self._read(f"misuse_{name}", TOTAL) for name in names}
        return {name: count for name, count in found.items() if count}

    def _read(self, name: str, column: int) -> int:
        if not self.calls_path.exists():
            return 0
        with self.calls_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as counters:
            _, functions, fields, columns, name_size = HEADER.unpack_from(counters, 0)
            rows = HEADER.size + functions * name_size
            if name.startswith("field."):
                row = functions + int(name.removeprefix("field."))
                assert row < functions + fields, name
            else:
                row = _names(counters, functions, name_size).index(name)
            return int(struct.unpack_from("=Q", counters, rows + (row * columns + column) * 8)[0])


def _names(counters: mmap.mmap, functions: int, name_size: int) -> list[str]:
    starts = range(HEADER.size, HEADER.size + functions * name_size, name_size)
    return [counters[start : start + name_size].rstrip(b"\0").decode() for start in starts]


def _preload(path: Path) -> None:
    """Load the library, so that the dynamic linker takes it when its bare name is asked for."""
    global _loaded
    if _loaded is not None and _loaded._name != str(path):
        _unload(_loaded._name)
        _loaded = None
    if _loaded is None:
        _loaded = ctypes.CDLL(str(path))
    found = ctypes.CDLL(SONAME)
    same = found._handle == _loaded._handle
    _ctypes.dlclose(found._handle)
    if not same:
        raise RuntimeError(f"this process has loaded another {SONAME} already; run the test in a process of its own")


def _unload(path: str) -> None:
    """Close the library as often as anybody has opened it."""
    _forget()
    while True:
        try:
            handle = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)._handle
        except OSError:
            return
        _ctypes.dlclose(handle)
        _ctypes.dlclose(handle)


def _forget() -> None:
    """Have pynvml look for its library and functions again."""
    if pynvml.nvmlLib is not None:
        _ctypes.dlclose(pynvml.nvmlLib._handle)
    pynvml.nvmlLib = None
    pynvml._nvmlLib_refcount = 0
    pynvml._nvmlGetFunctionPointer_cache.clear()
