"""``python -m benchmarks.unreachable``: what a receiver that is not there costs the demo's training.

Pairs of processes train the demo's model at the same time: one with telemetry switched off, one with everything on and
nothing listening at the endpoint. They train twice, and change processors in between: no two are quite alike. Compared
are the wall time of the two trainings and the CPU time of the whole process during them, background threads included;
what counts is the median of the pairs' ratios. Shown too: how long the second takes from its last line to its end.
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

TARGET: Final = 1.02
EXIT_S: Final = 3.5
_BATCH_SIZE, _SEED = 32, 7
_TIMES: Final = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the pairs and print the figures; 1 when the target was missed and ``--strict`` was said."""
    options = _options(arguments)
    if options.child is not None:
        _train(options.epochs, options.child)
        return 0
    with _nothing_listens() as endpoint:
        off = {"OTEL_SDK_DISABLED": "true"}
        on = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_PROMETHEUS_PORT": "0"}
        _pair(2, off, on)  # the first ones find cold files
        pairs = []
        for number in range(options.pairs):
            pairs.append(_pair(options.epochs, off, on) if number % 2 else _pair(options.epochs, on, off)[::-1])
            print(f"pair {number + 1} of {options.pairs}: {_ratio(*pairs[-1], 'cpu_s'):.4f}", file=sys.stderr)
    print(
        f"{options.pairs} pairs, {options.epochs} epochs of the demo's training, twice, nothing listening at {endpoint}"
    )
    met = True
    for name, title in (("wall_s", "wall time"), ("cpu_s", "CPU time")):
        ratios = sorted(_ratio(without, with_it, name) for without, with_it in pairs)
        median = statistics.median(ratios)
        seconds = statistics.median(without[name] for without, _ in pairs)
        met = met and median <= TARGET
        print(
            f"{title + ':':<11} {median:.4f} of {seconds:.2f} s without telemetry (median; {ratios[0]:.4f} to "
            f"{ratios[-1]:.4f}; target <= {TARGET})"
        )
    leaving = max(with_it["leaving_s"] for _, with_it in pairs)
    met = met and leaving <= EXIT_S
    print(f"from the last line to the end of the process: {leaving:.2f} s at most (target <= {EXIT_S})")
    return 0 if met or not options.strict else 1


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
    parser.add_argument("--pairs", type=int, default=10, help="pairs of runs (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each training (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="fail when a target is missed")
    parser.add_argument("--child", type=int, nargs="+", metavar="PROCESSOR", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
