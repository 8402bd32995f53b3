"""The circumstances of a run: one BLAS thread, no telemetry settings from outside, and what machine it was."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("opentelemetry-sdk", "opentelemetry-exporter-otlp", "prometheus_client", "protobuf", "numpy")


def prepare() -> None:
    """Make what is measured the default: before NumPy or OpenTelemetry are imported."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "CRUCIBLE_OTEL_")):
            del os.environ[name]
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the figures; nothing that identifies the machine."""
    return {
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "system": platform.system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: version(name) for name in _PACKAGES},
    }


def busy() -> float | None:
    """Return how many processes wanted a core during the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def child(*arguments: str, environ: dict[str, str] | None = None) -> tuple[list[str], dict[str, Any]]:
    """Return the command and the options of a Python child that sees this package."""
    return [sys.executable, *arguments], {"cwd": ROOT, "env": {**os.environ, **(environ or {})}, "text": True}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
