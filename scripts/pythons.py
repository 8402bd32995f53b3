"""Print the oldest or the newest supported Python of this machine, for the two ends of ``make matrix``.

Run it as ``python scripts/pythons.py oldest`` or ``newest``. It looks for ``python3.10`` to ``python3.14`` on the PATH
and among the versions of pyenv, if that is there, and takes what can make a virtual environment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

MINORS: Final = (10, 11, 12, 13, 14)
_FITS: Final = "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, {}))"


def interpreters(minor: int) -> Iterator[str]:
    """Yield what may be a Python 3.``minor``."""
    on_path = shutil.which(f"python3.{minor}")
    if on_path is not None:
        yield on_path
    if shutil.which("pyenv") is not None:
        versions = _output(["pyenv", "versions", "--bare"]).split()
        # The latest of a minor version is the last one.
        for version in reversed([each for each in versions if each.startswith(f"3.{minor}.")]):
            yield f"{_output(['pyenv', 'prefix', version]).strip()}/bin/python"


def find(end: str) -> str:
    """Return the interpreter at one end, ``oldest`` or ``newest``; this one when no other is found."""
    for minor in MINORS if end == "oldest" else reversed(MINORS):
        for interpreter in interpreters(minor):
            if _fits(interpreter, minor):
                return interpreter
    return sys.executable


def _fits(interpreter: str, minor: int) -> bool:
    try:
        done = subprocess.run([interpreter, "-c", _FITS.format(minor)], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def _output(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout


if __name__ == "__main__":
    if sys.argv[1:] not in (["oldest"], ["newest"]):
        raise SystemExit("say oldest or newest")
    print(find(sys.argv[1]))
