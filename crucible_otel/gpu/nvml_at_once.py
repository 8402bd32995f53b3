"""All devices in one go: the calls that each has settled on, one after the other, with their answers side by side.

It makes the same calls as the readers of :mod:`crucible_otel.gpu.nvml_read`, and none that one of them would not make.
One copy keeps what all devices told; what it means is made out when somebody looks.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from crucible_otel.gpu.backend import FastReading, ProcessReading, SlowReading
from crucible_otel.gpu.nvml_batch import Answers, Batch
from crucible_otel.gpu.nvml_calls import Ask, Number
from crucible_otel.gpu.nvml_fields import UNKNOWN_VALUES
from crucible_otel.gpu.nvml_processes import PROCESS_BYTES, listed, own_memory
from crucible_otel.gpu.nvml_read import PartReader, slow_reading
from crucible_otel.gpu.nvml_told import Room, ToldReading
from crucible_otel.gpu.snapshot import COUNTERS

__all__ = ["NvmlAtOnce"]

T = TypeVar("T")
_Calls = tuple[tuple[Any, tuple[Any, ...]], ...]
_ROOM_BYTES: Final = ctypes.sizeof(Room)


@dataclass(kw_only=True)
class _Places:
    """Where the answers of one device are in those of all.

    Attributes:
        batch: The call for fields, if there is one.
        fields: Where its answers are.
        numbers: Key -> where a number is, and how it is stored.
        room: Where the others are.
    """

    batch: Batch | None
    fields: slice = field(default_factory=lambda: slice(0))
    numbers: dict[object, tuple[int, struct.Struct]] = field(default_factory=dict)
    room: slice = field(default_factory=lambda: slice(0))

    def answers(self, told: bytes) -> Answers | None:
        """Return the answers of the fields."""
        return Answers(self.batch, self.batch.unpack(told[self.fields])) if self.batch is not None else None

    def told(self, told: bytes) -> dict[object, Any]:
        """Return the numbers."""
        return {key: layout.unpack_from(told, at)[0] for key, (at, layout) in self.numbers.items()}


class _Answers:
    """The answers of all devices to one kind of reading, and the calls that put them there.

    Args:
        readers: The devices.
        batch: The name of the fields that are asked for.
        numbers: What of a device is asked for besides.
        rooms: Whether the rooms of the readers are here too.
    """

    def __init__(
        self,
        readers: Sequence[PartReader],
        batch: str,
        numbers: Callable[[PartReader], Mapping[object, Number]],
        *,
        rooms: bool,
    ) -> None:
        self.places = [_Places(batch=reader.calls.batch(batch)) for reader in readers]
        asked = [
            {key: each for key, each in numbers(reader).items() if each.ask.key not in reader.calls.never}
            for reader in readers
        ]
        fields = sum(len(places.batch.bytes) for places in self.places if places.batch is not None)
        many = sum(len(each.places) for all_ in asked for each in all_.values())
        self.memory = (ctypes.c_char * (fields + len(readers) * _ROOM_BYTES * rooms + 8 * many))()
        self._used = 0
        self.calls: list[_Calls] = []
        for places in self.places:
            self.calls.append(self._ask_fields(places))
        self._codes, self._well = slice(28, fields, 40), bytes(fields // 40)
        self.rooms = (
            [self._room(reader, places) for reader, places in zip(readers, self.places, strict=True)] if rooms else []
        )
        for place, (places, each) in enumerate(zip(self.places, asked, strict=True)):
            self.calls[place] += tuple(self._ask_number(places, key, number) for key, number in each.items())
        self._totals = None if rooms and not all(map(_counts_energy, self.places)) else _totals(self.places)

    def grew(self, before: bytes, now: bytes) -> bool:
        """Whether all totals were told both times, and none of them has gone down."""
        if self._totals is None:
            return False
        old, new = self._totals.unpack_from(before), self._totals.unpack_from(now)
        return all(map(operator.le, old, new)) and UNKNOWN_VALUES.isdisjoint((*old, *new))

    def copy(self) -> bytes | None:
        """Return what was told; None when one of the fields was not."""
        told = bytes(self.memory)
        return told if told[self._codes] == self._well else None

    def _take(self, size: int) -> int:
        begin, self._used = self._used, self._used + size
        return begin

    def _ask_fields(self, places: _Places) -> _Calls:
        batch = places.batch
        if batch is None:
            return ()
        size = len(batch.bytes)
        begin = self._take(size)
        places.fields = slice(begin, begin + size)
        ctypes.memmove(ctypes.byref(self.memory, begin), batch.bytes, size)
        return (_call(batch.ask, 1, ctypes.byref(self.memory, begin)),)

    def _room(self, reader: PartReader, places: _Places) -> Room:
        begin = self._take(_ROOM_BYTES)
        places.room = slice(begin, begin + _ROOM_BYTES)
        room = Room.from_buffer(self.memory, begin)
        ctypes.memmove(ctypes.byref(room), ctypes.byref(reader.room), _ROOM_BYTES)
        return room

    def _ask_number(self, places: _Places, key: object, number: Number) -> tuple[Any, tuple[Any, ...]]:
        begin = [self._take(8) for _ in number.places]
        places.numbers[key] = begin[0], struct.Struct(f"@{number.places[0]._type_._type_}")
        return _call(number.ask, len(begin), *(ctypes.byref(self.memory, each) for each in begin))


class _Told(Generic[T]):
    """See :class:`crucible_otel.gpu.backend.Told`."""

    __slots__ = ("_answers", "_make", "_told")

    def __init__(self, answers: _Answers, told: bytes, make: Callable[[], Sequence[T]]) -> None:
        self._answers, self._told, self._make = answers, told, make

    def __call__(self) -> Sequence[T]:
        return self._make()

    def follows(self, before: object) -> bool:
        """Whether all totals were told both times, and none of them has gone down."""
        return (
            isinstance(before, _Told)
            and before._answers is self._answers
            and self._answers.grew(before._told, self._told)
        )


class NvmlAtOnce:
    """See :class:`crucible_otel.gpu.backend.AtOnce`.

    Args:
        readers: Of the devices; each has :attr:`PartReader.settled`.
    """

    def __init__(self, readers: Sequence[PartReader]) -> None:
        self._readers = readers
        self._rounds = 0
        self._fast = _Answers(readers, "fast", lambda reader: reader.asked("energy_j", "power_w"), rooms=True)
        self._slow = slow = _Answers(
            readers, "slow", lambda reader: {**reader.asked("power_limit_w"), **reader.numbers}, rooms=False
        )
        self._told = [tuple(name for name, _ in reader.questions.steady) + reader.told_slowly for reader in readers]
        turns = [[reader.activity.turn(number) for reader in readers] for number in (0, 1)]
        self._fast_calls = tuple(
            sum((self._asked(place, turn) for place, turn in enumerate(each)), ()) for each in turns
        )
        self._activity = tuple([turn[1] if turn is not None else b"" for turn in each] for each in turns)
        self._slow_calls: _Calls = sum(slow.calls, ())
        self._clock_calls: _Calls = sum(map(self._clocks, range(len(readers))), ())
        self._constants = [{name: dict(each) for name, each in reader.constants.items()} for reader in readers]
        self._processes = [reader.processes for reader in readers]
        self._rooms = [each.room if each is not None else 0 for each in self._processes]
        self._counts = (ctypes.c_uint * len(readers))()
        self._lists = (ctypes.c_char * (sum(self._rooms) * PROCESS_BYTES))()
        self._begins = [sum(self._rooms[:place]) * PROCESS_BYTES for place in range(len(readers))]
        self._listed: tuple[list[int], bytes] = [], b""
        self._process: Sequence[ProcessReading] = ()
        self._process_calls = tuple(
            (
                reader.calls.function(each.name),
                (
                    _argument(reader.calls.handle),
                    ctypes.byref(self._counts, 4 * place),
                    ctypes.byref(self._lists, self._begins[place]),
                ),
            )
            for place, (reader, each) in enumerate(zip(readers, self._processes, strict=True))
            if each is not None
        )
        self._pid = os.getpid()

    def read_fast(self) -> _Told[FastReading] | None:
        """Return what makes out what each device told; None if anything failed."""
        turn = self._rounds % 2
        told = self._fast.copy() if self._readers and _well(self._fast_calls[turn]) else None
        if told is None:
            return None
        self._rounds += 1
        activity = [bytes(each) for each in self._activity[turn]]
        return _Told(self._fast, told, functools.partial(self._fast_readings, told, activity))

    def read_slow(self) -> _Told[SlowReading] | None:
        """Return the same of slow readings."""
        told = self._slow.copy() if self._readers and _well(self._slow_calls) else None
        if told is None or not _well(self._clock_calls):
            self._rounds -= 1  # the sample of GPM is taken again
            return None
        return _Told(self._slow, told, functools.partial(self._slow_readings, told))

    def read_process(self) -> Sequence[ProcessReading] | None:
        """Return what this process uses of each device; None if anything failed."""
        self._counts[:] = self._rooms  # type: ignore[assignment]  # numbers are what it takes
        if not self._readers or not _well(self._process_calls):
            return None
        found = self._counts[:], bytes(self._lists)
        if found != self._listed:
            self._listed = found
            self._process = [
                ProcessReading() if processes is None else own_memory(listed(self._lists, count, begin), self._pid)
                for processes, count, begin in zip(self._processes, found[0], self._begins, strict=True)
            ]
        return self._process

    def end(self) -> None:
        """Have the readers go on where this ends."""
        readers, self._readers = self._readers, ()
        for reader, room in zip(readers, self._fast.rooms, strict=False):
            ctypes.memmove(ctypes.byref(reader.room), ctypes.byref(room), _ROOM_BYTES)
            reader.activity.passed(self._rounds)

    def _asked(self, place: int, turn: tuple[_Calls, Any] | None) -> _Calls:
        """Return the calls for a device on every tick, in the order in which its reader makes them."""
        room = self._fast.rooms[place]
        questions = tuple(
            _call(ask, 1, ctypes.byref(getattr(room, name))) for name, ask in self._readers[place].questions.steady
        )
        gpm = tuple((function, tuple(map(_argument, args))) for function, args in turn[0]) if turn is not None else ()
        return self._fast.calls[place] + gpm + questions

    def _clocks(self, place: int) -> _Calls:
        reader, room = self._readers[place], self._fast.rooms[place]
        return tuple(
            _call(ask, 1, ctypes.byref(getattr(room, name)))
            for name, ask in reader.slow_clocks
            if ask.key not in reader.calls.never
        )

    def _fast_readings(self, told: bytes, activity: Sequence[bytes]) -> tuple[FastReading, ...]:
        found = []
        for places, names, active in zip(self._fast.places, self._told, activity, strict=True):
            fields, milli = places.answers(told), places.told(told)
            energy_j, power_w = (_of(target, fields, milli) for target in ("energy_j", "power_w"))
            found.append(ToldReading(energy_j, power_w, names, told[places.room], fields, active or None))
        return tuple(found)

    def _slow_readings(self, told: bytes) -> tuple[SlowReading, ...]:
        found = []
        for places, constants in zip(self._slow.places, self._constants, strict=True):
            fields, numbers = places.answers(told), places.told(told)
            numbers["power_limit_w"] = _of("power_limit_w", fields, numbers)
            found.append(slow_reading(fields, numbers, constants))
        return tuple(found)


def _of(target: str, fields: Answers | None, milli: Mapping[object, int]) -> float | None:
    found = fields.value(target) if fields is not None else None
    return milli[target] / 1000 if found is None and target in milli else found


def _counts_energy(places: _Places) -> bool:
    """Whether a device counts its energy among its fields, or has none: else power is integrated over all readings."""
    targets = places.batch.places if places.batch is not None else {}
    return not places.numbers and ("energy_j" in targets or "power_w" not in targets)


def _totals(all_: Sequence[_Places]) -> struct.Struct:
    """Return what takes the totals out of the answers."""
    fields = [each for places in all_ if places.batch is not None for each in places.batch.fields]
    return struct.Struct("=" + "".join("32xQ" if each.target in COUNTERS else "40x" for each in fields))


def _well(calls: _Calls) -> bool:
    """Make calls, as long as they are answered, and return whether all were."""
    for function, arguments in calls:  # noqa: SIM110 - any() with a generator costs twice as much
        if function(*arguments):
            return False
    return True


def _call(ask: Ask, answers: int, *places: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a call with other places for its last arguments, the answers."""
    return ask.function, (*map(_argument, ask.arguments[:-answers]), *places)


def _argument(value: Any) -> Any:
    """Return an argument as ctypes passes it on: made once, it need not be made by each call."""
    if isinstance(value, int):
        return ctypes.c_int.from_param(value)
    if isinstance(value, ctypes._Pointer):
        return ctypes.c_void_p.from_param(ctypes.cast(value, ctypes.c_void_p).value)
    return value
