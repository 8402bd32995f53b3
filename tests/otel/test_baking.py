"""Functions whose helpers are constants of their code."""

from __future__ import annotations

import warnings

from crucible_otel.otel.baking import baked

SOURCE = """
def build(owner):
    due = LATE
    def put(value):
        nonlocal due
        if type(value) is real and value < due:
            extend((owner, value))
            return length(kept)
        due = value
        return "kept"
    return put
"""


def test_names_become_the_objects_they_stand_for() -> None:
    """In the functions inside of it too, and without a table of globals to look into."""
    kept: list[object] = []
    values = {"LATE": 10.0, "type": type, "real": float, "extend": kept.extend, "length": len, "kept": kept}
    put = baked(SOURCE, "<test>", values)["build"]("mine")

    assert [2, "kept", 4] == [put(1.0), put(7), put(6.5)]
    assert ["mine", 1.0, "mine", 6.5] == kept
    assert (((), True)) == (put.__code__.co_names, float in put.__code__.co_consts)


def test_a_text_that_reads_like_a_name_stays_a_text() -> None:
    """Only names are replaced."""
    assert "kept" == baked('def f(): return "kept"', "<test>", {"kept": 1})["f"]()


def test_compiling_warns_of_nothing() -> None:
    """Whatever the program does with warnings."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        baked("def f(): return now()", "<test>", {"now": int})
    assert [] == raised
