"""Importing the configuration does nothing."""

from __future__ import annotations

import pathlib
import subprocess
import sys

CODE = """
import dataclasses, difflib, enum, inspect, logging, numbers, os, sys, urllib.parse

class Forbidden(dict):
    def _read(self, *_):
        raise AssertionError("the environment was read")
    __getitem__ = get = __contains__ = __iter__ = _read

os.environ = Forbidden()
import crucible_otel.config.reference
crucible_otel.config.reference.render()
print(sorted(name for name in sys.modules if name.startswith(("opentelemetry.sdk", "numpy", "torch"))))
"""


def test_import_reads_no_environment_and_loads_no_sdk() -> None:
    """Only resolving reads the environment, and only the one it is given."""
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True, check=False)
    assert ("[]\n", "") == (done.stdout, done.stderr)
