"""What a record costs when there are more threads, more series, more records."""

from __future__ import annotations

import contextvars
import gc
import json
import statistics
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from time import process_time_ns
from typing import Any

from benchmarks.children import figures
from benchmarks.memory import resident_bytes
from benchmarks.result import Result, Section

METHOD = """\
CPU time of the process for each `run.step` and each `call.record` (metrics only), folds included: of threads that share
one handle, of one thread that goes round many series, and of more and more of them, a decade after the other, with the
resident memory of the process after each. Medians; for information. A loop makes one log event a second: with 10,000 of
them nearly every step is one."""

STEP, CALL = "run.step", "call.record"
_THREADS, _SERIES = (1, 2, 8), (1, 100, 10_000)
_NUMBERS = {STEP: (10_000, 100_000, 1_000_000, 10_000_000), CALL: (10_000, 100_000, 1_000_000)}
_QUICK_SERIES, _QUICK_NUMBERS = (1, 10), (1_000, 10_000)
_AT_ONCE = 131_072
_TIMES = 3
_FLUSH_S = 60.0

_DRIVES = {
    STEP: "record(loss=1.25, learning_rate=3e-4, gradient_norm=0.5, tokens=4096)",
    CALL: "record(1_250_000, queue_ns=1_000, serialize_ns=20_000, execute_ns=30_000, deserialize_ns=4_000, nbytes=512)",
}
_DRIVE = """
def drive(records):
    for record in records:
        {body}
"""
_MIB = 2**20

Drive = Callable[..., None]


def measure(quick: bool) -> Section:
    """Measure in a child."""
    found = figures("scaling", str(quick))
    results = []
    for what, of in (("threads", "of {} threads"), ("series", "over {} series"), ("number", "of {} records")):
        for name, each in found[what].items():
            for key, ns in each.items():
                many = of.format(f"{int(key):,}") if (what, key) != ("threads", "1") else "of 1 thread"
                results.append(Result(name=f"{name}, {many}", value=ns, unit="ns", better="less"))
    for name, each in found["resident_bytes"].items():
        first, *_, last = each.items()
        grown = (last[1] - first[1]) / _MIB
        many = f"{int(first[0]):,} to {int(last[0]):,}"
        results.append(Result(name=f"{name}, growth from {many}", value=grown, unit="MiB", better="less"))
    return Section(method=METHOD, results=tuple(results), figures={"resident_bytes": found["resident_bytes"]})


def _measure(quick: bool) -> dict[str, Any]:
    import crucible_otel as cx
    from benchmarks.sink import sink

    many = _QUICK_SERIES if quick else _SERIES
    at_once = 1_000 if quick else _AT_ONCE
    with (
        sink() as endpoint,
        cx.configure(
            endpoint=endpoint,
            prometheus_port=0,
            gpu="off",
            call_sample_rate=0.0,
            cardinality_limit=2 * max(many),
            exit_timeout_s=_FLUSH_S,
        ) as telemetry,
    ):
        drives = {name: _compiled(body) for name, body in _DRIVES.items()}
        found: dict[str, Any] = {"threads": {}, "series": {}, "number": {}, "resident_bytes": {}}
        for name, drive in drives.items():
            first, spent, resident = _MAKERS[name](1), {}, {}
            drive(first * at_once)
            for number in _QUICK_NUMBERS if quick else _NUMBERS[name]:
                spent[number] = _spent(lambda: drive(islice(cycle(first), number))) / number  # noqa: B023
                telemetry.flush(_FLUSH_S)
                gc.collect()
                resident[number] = resident_bytes()
            found["number"][name], found["resident_bytes"][name] = spent, resident
            found["threads"][name] = {each: _shared(drive, first, each, at_once) for each in _THREADS}
        for name, drive in drives.items():
            records = _MAKERS[name](max(many))
            found["series"][name] = {each: _around(drive, records[:each], at_once // 8) for each in many}
    return found


def _steps(number: int) -> list[Any]:
    import crucible_otel as cx

    # Each run in a context of its own: they are beside each other.
    return [contextvars.Context().run(cx.train(f"model-{each}").start).step for each in range(number)]


def _calls(number: int) -> list[Any]:
    import crucible_otel as cx

    return [cx.call("library", f"function_{each}").record for each in range(number)]


_MAKERS = {STEP: _steps, CALL: _calls}


def _compiled(body: str) -> Drive:
    scope: dict[str, Any] = {}
    exec(compile(_DRIVE.format(body=body), "<record>", "exec"), scope)
    drive: Drive = scope["drive"]
    return drive


def _spent(work: Callable[[], object]) -> int:
    began = process_time_ns()
    work()
    return process_time_ns() - began


def _shared(drive: Drive, record: list[Any], threads: int, at_once: int) -> float:
    each = at_once // threads

    def work() -> None:
        drive(record * each)

    def all_of_them() -> None:
        working = [threading.Thread(target=work) for _ in range(threads)]
        for thread in working:
            thread.start()
        for thread in working:
            thread.join()

    return statistics.median(_spent(all_of_them) for _ in range(_TIMES)) / each / threads


def _around(drive: Drive, records: Sequence[Any], at_once: int) -> float:
    number = max(at_once, len(records))
    rounds = list(islice(cycle(records), number))
    drive(rounds)
    return statistics.median(_spent(lambda: drive(rounds)) for _ in range(_TIMES)) / number


if __name__ == "__main__":
    from benchmarks.environment import prepare

    prepare()
    print(json.dumps(_measure(sys.argv[1] == "True")))
