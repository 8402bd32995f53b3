"""The public names are the committed ones, and each of them exists."""

from __future__ import annotations

import runpy
from pathlib import Path

import crucible_otel

ROOT = Path(__file__).parents[1]


def test_public_names_are_the_committed_ones() -> None:
    """A name that comes or goes shows up in public_api.txt (``make api``)."""
    script = runpy.run_path(str(ROOT / "scripts" / "public_api.py"))

    expected = (ROOT / "public_api.txt").read_text(encoding="utf-8").splitlines()

    assert expected == script["public_names"]()


def test_front_door_lists_what_it_has() -> None:
    """Every name in ``__all__`` can be had, once, and ``dir`` shows it."""
    names = list(crucible_otel.__all__)

    assert [] == [name for name in names if not hasattr(crucible_otel, name)]
    assert sorted(set(names)) == sorted(names)
    assert [] == [name for name in names if name not in dir(crucible_otel)]
