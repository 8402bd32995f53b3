"""Runs what needs a process of its own: ``python -m benchmarks.<module>`` prints one JSON object."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from benchmarks.environment import child


def figures(module: str, *arguments: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a module of this package and return what it found."""
    command, options = child("-m", f"benchmarks.{module}", *arguments, environ=environ)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, **options)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
