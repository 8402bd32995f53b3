"""Event names as they come in."""

from __future__ import annotations

from typing import Any

import pytest

from crucible_otel.events.names import dotted, dotted_all


class Unprintable:
    """A name that cannot be made text."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        ("a.b.c", "a.b.c"),
        ("a.b.c", ("a", "b", "c")),
        ("a.b.c", ["a", "b", "c"]),
        ("a.b.c", ("a.b", "c")),
        ("", ""),
        ("1.None", (1, None)),
        ("None", None),
        ("Unprintable", Unprintable()),
        ("Unprintable.x", (Unprintable(), "x")),
        ("\\ud800", "\ud800"),
        ("x" * 255, "x" * 300),
        (("x" * 200 + "." + "y" * 200)[:255], ("x" * 200, "y" * 200)),
    ],
)
def test_dotted_takes_anything(expected: str, given: Any) -> None:
    """Strings and sequences of parts as they are, anything else somehow; never longer than a name may be."""
    assert expected == dotted(given)


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        (None, None),
        (("a.b",), "a.b"),
        (("a.b",), ("a", "b")),
        (("a.b",), [("a", "b")]),
        (("a.b", "c"), ["a.b", "c", "a.b"]),
        (("a.b", "c.d"), ("a.b", "c.d")),
        (("a.b", "c.d"), [("a", "b"), ["c", "d"]]),
        (("a", "b"), ["a", "b"]),
        ((), ()),
        ((), []),
    ],
)
def test_dotted_all_tells_one_name_from_several(expected: Any, given: Any) -> None:
    """A tuple of parts is one name, a list holds names; each name comes once."""
    assert expected == dotted_all(given)


@pytest.mark.parametrize("given", [5, [5], [None], object()])
def test_what_is_no_name_is_refused(given: Any) -> None:
    """When subscribing, a name that cannot be one is a mistake."""
    with pytest.raises(TypeError):
        dotted_all(given)
