"""Ids of spans and traces."""

from __future__ import annotations

import os
import random

from crucible_otel.export.ids import RandomIds


def test_a_seeded_random_does_not_repeat_ids() -> None:
    """Seeding the global generator twice alike gives different ids."""
    ids, made = RandomIds(), set()
    for _ in range(2):
        random.seed(0)
        made |= {ids.generate_trace_id(), ids.generate_span_id()}
    assert 4 == len(made)


def test_drawing_ids_leaves_the_global_generator_alone() -> None:
    """A seeded program draws the same numbers with and without telemetry."""
    random.seed(1)
    expected = random.random()
    random.seed(1)
    RandomIds().generate_trace_id()
    assert expected == random.random()


def test_a_forked_child_makes_other_ids() -> None:
    """Parent and child, forked in the same state, draw different ids."""
    ids = RandomIds()
    ids.generate_trace_id()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, f"{ids.generate_trace_id():032x}".encode())
        os._exit(0)
    own = ids.generate_trace_id()
    os.waitpid(pid, 0)
    childs = int(os.read(read, 32), 16)
    os.close(read)
    os.close(write)
    assert own != childs


def test_ids_are_in_range_and_never_zero() -> None:
    """All bits zero means "no id" and is drawn again."""
    ids = RandomIds()
    bits = iter([0, 7, 0, 0, 9])
    ids._bits = lambda _: next(bits)
    assert (7, 9) == (ids.generate_span_id(), ids.generate_trace_id())
    assert all(0 < RandomIds().generate_span_id() < 2**64 for _ in range(100))


def test_trace_ids_are_declared_random() -> None:
    """The W3C flag may be set, which ratio samplers downstream rely on."""
    assert RandomIds().is_trace_id_random() is True
