"""Functions whose helpers are constants of their code."""

from __future__ import annotations

import ast
import contextlib
import gc
import threading
import time
import warnings
from collections.abc import Iterator

import pytest

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


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that take turns also in the middle of what C does: whenever garbage is collected, which is often."""
    before = gc.get_threshold()
    gc.callbacks.append(give_way)
    gc.set_threshold(20)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(give_way)


def give_way(phase: str, info: dict[str, int]) -> None:
    """Let another thread run."""
    time.sleep(0)


@pytest.mark.usefixtures("restless")
def test_threads_compile_at_once() -> None:
    """Ours, while others of the program look at syntax trees too."""
    made: list[object] = []
    done = threading.Event()

    def bake() -> None:
        for _ in range(50):
            made.append(baked(SOURCE, "<test>", {"kept": 1})["build"])

    def parse() -> None:
        while not done.is_set():
            with contextlib.suppress(SystemError):  # some versions of Python
                ast.parse(SOURCE)

    parsing = threading.Thread(target=parse)
    baking = [threading.Thread(target=bake) for _ in range(4)]
    for thread in (parsing, *baking):
        thread.start()
    for thread in baking:
        thread.join()
    done.set()
    parsing.join()
    assert 200 == len(made)
