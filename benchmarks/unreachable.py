"""``python -m benchmarks.unreachable``: what a receiver that is not there costs the demo's training.

``METHOD`` says how: what counts is the median of the pairs' ratios. Shown too: how long a process takes from its last
line to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.environment import ROOT
from benchmarks.report import terminal
from benchmarks.result import Result, Section

METHOD = """\
Ten pairs of processes train the demo's model for 20 epochs at the same time: one with telemetry switched off, one with
everything on and nothing listening at the endpoint. They train twice, and change processors in between: no two are
quite alike. CPU time is that of the whole process during the trainings, background threads included."""

PAIRS: Final = 10
EPOCHS: Final = 20
TARGET: Final = 1.02
EXIT_S: Final = 3.5
_BATCH_SIZE, _SEED = 32, 7
_TIMES: Final = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the pairs and print the figures; 1 when a target was missed and ``--strict`` was said."""
    options = _options(arguments)
    if options.child is not None:
        _train(options.epochs, options.child)
        return 0
    section = compared(options.pairs, options.epochs)
    print(terminal({"sections": {"unreachable": section.data()}}))
    return 1 if options.strict and any(each.met is False for each in section.results) else 0


def measure(quick: bool) -> Section:
    """Measure ten pairs; coarsely one of them."""
    return compared(1, 1) if quick else compared(PAIRS, EPOCHS)


def compared(pairs: int, epochs: int) -> Section:
    """Measure so many pairs of trainings of so many epochs."""
    off = {"OTEL_SDK_DISABLED": "true"}
    found = []
    with _nothing_listens() as endpoint:
        on = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_PROMETHEUS_PORT": "0"}
        if pairs > 1:  # a single pair is coarse anyway
            _pair(2, off, on)  # the first ones find cold files
        for number in range(pairs):
            found.append(_pair(epochs, off, on) if number % 2 else _pair(epochs, on, off)[::-1])
            print(f"pair {number + 1} of {pairs}: {_ratio(*found[-1], 'cpu_s'):.4f}", file=sys.stderr)

    def against(name: str, title: str) -> Result:
        ratios = sorted(_ratio(without, with_it, name) for without, with_it in found)
        quarter = len(ratios) // 4
        return Result(
            name=f"{title} with telemetry / without",
            value=statistics.median(ratios),
            unit="x",
            better="less",
            target=TARGET,
            low=ratios[quarter],
            high=ratios[-1 - quarter],
        )

    return Section(
        method=METHOD,
        results=(
            against("wall_s", "training time"),
            against("cpu_s", "CPU time of the training"),
            Result(
                name="from the last line to the end of the process, longest",
                value=max(with_it["leaving_s"] for _, with_it in found),
                unit="s",
                better="less",
                target=EXIT_S,
            ),
        ),
        figures={
            "pairs": pairs,
            "epochs": epochs,
            "s without": {
                name: round(statistics.median(each[name] for each, _ in found), 2) for name in ("wall_s", "cpu_s")
            },
        },
    )


def _ratio(without: dict[str, float], with_it: dict[str, float], name: str) -> float:
    return with_it[name] / without[name]


def _pair(epochs: int, *environs: dict[str, str]) -> list[dict[str, float]]:
    """Train with both at once, so that they meet the machine in the same mood, each on a processor of its own."""
    processors = sorted(os.sched_getaffinity(0))[:2]
    children = [_start(epochs, environ, processors[::turn]) for environ, turn in zip(environs, (1, -1), strict=True)]
    for _ in range(_TIMES):
        for child in children:
            _read(child)
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
    found = [json.loads(_read(child)) for child in children]
    for each, child in zip(found, children, strict=True):
        child.wait()
        each["leaving_s"] = time.monotonic() - each["last_line_s"]
    return found


def _start(epochs: int, environ: dict[str, str], processors: list[int]) -> subprocess.Popen[str]:
    # One thread for NumPy's products: else the threads' waiting for each other is most of what is measured.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "CRUCIBLE_OTEL_"))}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    options = ["--epochs", str(epochs), "--child", *map(str, processors)]
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.unreachable", *options],
        env={**inherited, **threads, **environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _read(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit("the training failed; try it alone: python -m benchmarks.unreachable --child 0")
    return line


def _train(epochs: int, processors: list[int]) -> None:
    os.sched_setaffinity(0, {processors[0]})
    import crucible_otel as cx
    from crucible_otel.cli.demo.model import make
    from crucible_otel.cli.demo.story import tell

    cx.configure()
    found = {"wall_s": 0.0, "cpu_s": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        tell(make(_SEED), epochs=1, batch_size=_BATCH_SIZE, seed=_SEED, folder=Path(folder))
        for turn in range(_TIMES):
            for thread in os.listdir("/proc/self/task"):
                os.sched_setaffinity(int(thread), {processors[turn % len(processors)]})
            model = make(_SEED)
            print("ready", flush=True)
            sys.stdin.readline()
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            tell(model, epochs=epochs, batch_size=_BATCH_SIZE, seed=_SEED, folder=Path(folder))
            found["wall_s"] += time.perf_counter() - wall_s
            found["cpu_s"] += time.process_time() - cpu_s
    print(json.dumps({**found, "last_line_s": time.monotonic()}), flush=True)


@contextmanager
def _nothing_listens() -> Iterator[str]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unreachable", description="A receiver that is not there."
    )
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of runs (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of each training (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="fail when a target is missed")
    parser.add_argument("--child", type=int, nargs="+", metavar="PROCESSOR", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
