"""``python -m benchmarks.offered``: what becomes of calls when there are more of them than can be sent.

A process that is bound to one processor makes calls at a steady rate, as far as it can, each with its span, and sends
the spans to a process that reads them and does nothing else; so what makes the calls, what encodes and what sends share
one core. Afterwards every span is accounted for: delivered, or dropped and counted. The metrics count every call,
whatever became of its span. The resident memory is looked at meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.request
from typing import Any, Final

from benchmarks.children import figures
from benchmarks.result import Result, Section
from benchmarks.sink import sink

METHOD = """\
A process that is bound to one processor makes calls at a steady rate, as far as it can, for 20 s at the lower and for
60 s at the higher one, each with its span, and sends the spans to a process that reads them and does nothing else; so
what makes the calls, what encodes and what sends share one core. A span is delivered, or dropped and counted. Resident
memory is that of the process."""

RATES: Final = (10_000, 100_000)
SPARED: Final = 10_000
"""Up to this rate nothing is to be dropped."""

_SECONDS: Final = {10_000: 20.0, 100_000: 60.0}
_TICK_S: Final = 0.002
_AT_ONCE: Final = 500
_LOOKS: Final = 6
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_MIB: Final = 2**20


def main(arguments: list[str] | None = None) -> int:
    """Run each rate in a process of its own; 1 when spans are unaccounted for, or missing at the lower rate."""
    options = _options(arguments)
    if options.child is not None:
        print(json.dumps(_offer(options.child, options.seconds, options.endpoint)))
        return 0
    sound = True
    print(f"{options.seconds:g} s at each rate, on one processor")
    print("  calls/s      made by metrics     spans delivered   dropped missing")
    for rate in options.rates:
        found = _offered(rate, options.seconds)
        spans, missing = found["spans"], _missing(found["spans"])
        spared = rate > SPARED or not spans["queue_full"]
        sound = sound and spared and missing == 0 and found["counted"] == found["made"] <= spans["accepted"]
        print(
            f"{rate:9,d} {found['made']:9,d} {found['counted']:10,.0f} {spans['accepted']:9,d} "
            f"{spans['delivered']:9,d} {spans['queue_full']:9,d} {missing:7,d}"
        )
        memory = ", ".join(f"{each / _MIB:.0f}" for each in found["resident_bytes"])
        used = found["cpu_s"] / found["seconds"]
        print(
            f"{'':9s} {found['made'] / found['seconds']:,.0f} a second, {used:.0%} of a processor; memory {memory} MiB"
        )
    return 0 if sound else 1


def measure(quick: bool) -> Section:
    """Measure both rates."""
    results, kept = [], {}
    for rate in RATES:
        found = kept[f"{rate:,} calls a second"] = _offered(rate, 0.5 if quick else _SECONDS[rate])
        offered, spans, resident = f"{rate:,} calls a second", found["spans"], found["resident_bytes"]
        spared = 0.0 if rate <= SPARED else None
        used = 100 * found["cpu_s"] / found["seconds"]
        late = resident[len(resident) // 2]
        results += [
            Result(name=f"{offered}, made", value=found["made"] / found["seconds"], unit="a second"),
            Result(
                name=f"{offered}, not counted by the metrics",
                value=found["made"] - found["counted"],
                unit="calls",
                better="less",
                target=0.0,
            ),
            Result(name=f"{offered}, spans delivered", value=100 * spans["delivered"] / spans["accepted"], unit="%"),
            Result(
                name=f"{offered}, spans dropped and counted",
                value=spans["queue_full"],
                unit="spans",
                better="less",
                target=spared,
            ),
            Result(
                name=f"{offered}, spans unaccounted for",
                value=_missing(spans),
                unit="spans",
                better="less",
                target=0.0,
            ),
            Result(name=f"{offered}, of a processor", value=used, unit="%", better="less"),
            Result(
                name=f"{offered}, growth of memory in the second half",
                value=(resident[-1] - late) / _MIB,
                unit="MiB",
                better="less",
            ),
        ]
    return Section(method=METHOD, results=tuple(results), figures=kept)


def _offered(rate: int, seconds: float) -> dict[str, Any]:
    with sink() as endpoint:
        return figures("offered", "--child", str(rate), "--seconds", str(seconds), "--endpoint", endpoint)


def _missing(spans: dict[str, Any]) -> int:
    missing: int = spans["accepted"] - spans["delivered"] - spans["failed"] - spans["queue_full"]
    return missing


def _offer(rate: int, seconds: float, endpoint: str) -> dict[str, Any]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import crucible_otel as cx

    telemetry = cx.configure(
        endpoint=endpoint, metrics_exporter=("prometheus",), prometheus_port=0, gpu="off", exit_timeout_s=60.0
    )
    resident: list[int] = []
    made = 0
    clock = time.monotonic
    begin, cpu_s = clock(), time.process_time()
    with cx.workflow("offered"), cx.stage("calls"):
        while (gone := clock() - begin) < seconds:
            if gone >= len(resident) * seconds / _LOOKS:
                resident.append(_resident_bytes())
            due = min(_AT_ONCE, int(gone * rate) - made)
            if due <= 0:
                time.sleep(_TICK_S)
            for _ in range(due):
                with cx.call("library", "function"):
                    pass
                made += 1
    took_s, spent_s = clock() - begin, time.process_time() - cpu_s
    resident.append(_resident_bytes())
    counted = _counted(telemetry.prometheus_url or "")
    telemetry.shutdown(60.0)
    (spans,) = (each for each in telemetry.status()["signals"] if each["signal"] == "traces")
    return {
        "seconds": took_s,
        "cpu_s": spent_s,
        "made": made,
        "counted": counted,
        "spans": spans,
        "resident_bytes": resident,
    }


def _counted(url: str) -> float:
    with urllib.request.urlopen(url) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("crucible_calls_total{"))


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offered", description="More calls than can be sent.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long at each rate (default: %(default)s)")
    parser.add_argument("--rates", type=_rates, default=RATES, help="calls a second, with commas between")
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _rates(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
