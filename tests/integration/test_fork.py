"""Forked children report what they do themselves, and nothing of their parent's."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from crucible_otel.semconv.names import PROCESS_PID, RUN_ID, SERVICE_INSTANCE_ID
from crucible_otel.semconv.training import STEP_DURATION, STEPS
from crucible_otel.testing import OtlpReceiver
from tests.integration.programs import Ended, run, sending_to

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

SAY = """
import json, os, sys, time
import crucible_otel as cx

ROUTE = None

def say(**made):
    assert telemetry.status()["joined_metrics"] == ROUTE, telemetry.status()
    os.write(1, (json.dumps(made) + "\\n").encode())  # in one piece: others write at the same time
"""


APPLICATION = """
import os
os.environ["OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"] = "process"
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=3_600_000)
metrics.set_meter_provider(MeterProvider([reader], resource=Resource.create({"crucible.run.id": "theirs"})))
"""

BETWEEN = """
collect = reader._collect
reader._set_collect_callback(lambda *args, **kwargs: collect(*args, **kwargs))
"""


@pytest.fixture(params=["own", "readers", "callback"])
def say(request: pytest.FixtureRequest) -> str:
    """How a program begins: with nothing of its own, or with a MeterProvider that we join in one way or the other."""
    if request.param == "own":
        return SAY
    between = BETWEEN if request.param == "callback" else ""
    return f"{APPLICATION}{between}{SAY}\nROUTE = {request.param!r}\n"


def made_by(ended: Ended) -> dict[int, int]:
    """Return what a program says it made: process id -> steps."""
    made: dict[int, int] = defaultdict(int)
    for line in ended.output:
        said = json.loads(line)
        made[said["pid"]] += said["steps"]
    return dict(made)


def steps_by_process(receiver: OtlpReceiver) -> dict[int, int]:
    """Return what arrived: process id -> steps, each process under one instance id of its own."""
    points = receiver.latest(STEPS.name)
    instances = {(point.resource[PROCESS_PID], point.resource[SERVICE_INSTANCE_ID]) for point in points}
    assert len(instances) == len({pid for pid, _ in instances}) == len({instance for _, instance in instances})
    assert 1 == len({point.resource[RUN_ID] for point in points})
    found: dict[int, int] = defaultdict(int)
    durations: dict[int, int] = defaultdict(int)
    for point in points:
        found[point.resource[PROCESS_PID]] += point.value
    for point in receiver.latest(STEP_DURATION.name):
        durations[point.resource[PROCESS_PID]] += point.count
    assert found == durations
    return dict(found)


def test_bare_forks_report_their_own_steps_and_leave_the_parents_spans_open(
    receiver: OtlpReceiver, say: str, tmp_path: Path
) -> None:
    """Forked with unfolded steps, unsent spans and queued JSON lines, inside of blocks that two children leave."""
    path = tmp_path / "events.jsonl"
    ended = run(
        say
        + f"""
telemetry = cx.configure(handlers=[("jsonl", {{"path": {str(path)!r}}})])
heard = []
cx.attach_handler("mine", ["my.event"], lambda name, measurements, metadata, config: heard.append(metadata["from"]))
children = []
with cx.workflow("forking"), cx.stage("train"), cx.train("m") as run:
    for epoch in run.epochs(1):
        for _ in range(1_000):
            run.step(loss=0.5)
        with cx.stage("before"):
            cx.execute("my.event", {{}}, {{"from": "parent before"}})
        for child in range(3):
            pid = os.fork()
            children.append(pid)
            if pid == 0:
                with cx.stage("in a child"):
                    for _ in range(300 + child):
                        run.step(loss=0.25)
                    cx.execute("my.event", {{}}, {{"from": f"child {{child}}"}})
                assert heard == ["parent before", f"child {{child}}"], heard
                say(pid=os.getpid(), steps=300 + child)
                if child == 2:
                    assert telemetry.flush(timeout_s=10)
                    os._exit(0)
                sys.exit(0)
        for pid in children:
            assert (pid, 0) == os.waitpid(pid, 0)
        for _ in range(10):
            run.step(loss=0.5)
        cx.execute("my.event", {{}}, {{"from": "parent after"}})
say(pid=os.getpid(), steps=1_010)
assert heard == ["parent before", "parent after"], heard
assert telemetry.shutdown()
""",
        sending_to(receiver),
    )

    assert [] == ended.ours
    made = made_by(ended)
    assert made == steps_by_process(receiver)

    parent = next(pid for pid, steps in made.items() if steps == 1_010)
    by_name: dict[str, list[int]] = defaultdict(list)
    for span in receiver.spans:
        by_name[span.name].append(span.resource[PROCESS_PID])
    for name in ("run_workflow forking", "run_stage train", "train m", "train_epoch", "run_stage before"):
        assert [parent] == by_name.pop(name)
    assert {"run_stage in a child": sorted(made.keys() - {parent})} == {k: sorted(v) for k, v in by_name.items()}
    (tree,) = receiver.trace_tree()
    assert 3 == len(tree.find("run_stage in a child"))

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = sorted(line["metadata"]["from"] for line in lines if line["event"] == "my.event")
    assert ["child 0", "child 1", "child 2", "parent after", "parent before"] == told
    stops = [line["metadata"].get("stage") for line in lines if line["event"] == "crucible.stage.stop"]
    assert ["before", *["in a child"] * 3, "train"] == sorted(stops)


@pytest.mark.parametrize(
    ("way", "own"), [("sys.exit(0)", 1), ("break", 1), ("raise ValueError", 1), ("continue", 3)], ids=str
)
def test_a_child_of_a_step_leaves_that_step_to_its_parent(receiver: OtlpReceiver, say: str, way: str, own: int) -> None:
    """Forked with a step in progress that has been logged, whatever the child does with the loop."""
    ended = run(
        say
        + f"""
telemetry = cx.configure()
child = None
try:
    with cx.train("m") as run:
        for number, step in run.steps(range(4)):
            step.log(loss=0.5)
            if number == 1:
                child = os.fork()
                if child == 0:
                    run.step(loss=0.25)
                    {way}
                assert (child, 0) == os.waitpid(child, 0)
except (SystemExit, ValueError):
    pass
say(pid=os.getpid(), steps=4 if child else {own})
telemetry.shutdown()
""",
        sending_to(receiver),
    )

    assert [] == ended.ours
    assert sorted([4, own]) == sorted(made_by(ended).values())
    assert made_by(ended) == steps_by_process(receiver)


def test_a_fork_amid_busy_threads_neither_deadlocks_nor_reports_their_steps(receiver: OtlpReceiver) -> None:
    """Ten children, forked while other threads step, flush and open spans: any lock may be held at that moment."""
    ended = run(
        SAY
        + """
import threading
telemetry = cx.configure()
stop = threading.Event()
made = [0] * 4

def work(number):
    with cx.train("m") as run:
        while not stop.is_set():
            with cx.stage("busy"):
                for _ in range(100):
                    run.step(loss=0.5)
                made[number] += 100
            time.sleep(0.001)

def collect():
    while not stop.is_set():
        telemetry.flush(timeout_s=10)

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
threads.append(threading.Thread(target=collect))
for thread in threads:
    thread.start()
for child in range(10):
    time.sleep(0.01)
    pid = os.fork()
    if pid == 0:
        with cx.train("m") as run:
            for _ in range(7):
                run.step(loss=0.5)
        say(pid=os.getpid(), steps=7)
        assert telemetry.flush(timeout_s=30)
        os._exit(0)
    assert (pid, 0) == os.waitpid(pid, 0)
stop.set()
for thread in threads:
    thread.join()
say(pid=os.getpid(), steps=sum(made))
""",
        sending_to(receiver),
    )

    made = made_by(ended)
    assert 11 == len(made)
    assert made == steps_by_process(receiver)
    busy: dict[int, int] = defaultdict(int)
    for span in receiver.spans:
        busy[span.resource[PROCESS_PID]] += span.name == "run_stage busy"
    parent = max(made, key=lambda pid: made[pid])
    assert made[parent] // 100 == busy[parent]
    assert made[parent] // 100 == sum(busy.values())


LOADER = """
import multiprocessing

def worker(number, asked, answered):
    with cx.stage(f"worker"):
        while (batch := asked.get()) is not None:
            cx.dataset.batch(32, dataset="digits", wait_s=0.001)
            with cx.train("preparing") as run:
                run.step(loss=0.0)
            answered.put((os.getpid(), batch))
"""


def test_workers_like_a_data_loaders_report_their_own_batches(receiver: OtlpReceiver, say: str) -> None:
    """Daemonic processes that are forked inside an epoch, fed through queues, and joined by the parent."""
    ended = run(
        say
        + LOADER
        + """
telemetry = cx.configure()
fork = multiprocessing.get_context("fork")
by_pid = {}
with cx.workflow("loading"), cx.train("m") as run:
    for epoch in run.epochs(2):
        asked, answered = [fork.Queue() for _ in range(2)], fork.Queue()
        workers = [fork.Process(target=worker, args=(i, asked[i], answered), daemon=True) for i in range(2)]
        for each in workers:
            each.start()
        for batch in range(20):
            asked[batch % 2].put(batch)
        def batches():
            for _ in range(20):
                pid, batch = answered.get()
                by_pid[pid] = by_pid.get(pid, 0) + 1
                yield [batch] * 32
        for batch, step in run.steps(batches()):
            step.log(loss=0.5)
        for queue in asked:
            queue.put(None)
        for each in workers:
            each.join(30)
            assert each.exitcode == 0, each.exitcode
say(pid=os.getpid(), steps=40)
for pid, steps in by_pid.items():
    say(pid=pid, steps=steps)
""",
        sending_to(receiver),
    )

    assert [] == ended.ours
    made = made_by(ended)
    assert 5 == len(made)
    assert made == steps_by_process(receiver)
    assert 40 == receiver.total("crucible.dataset.batches")
    assert 40 * 32 == receiver.total("crucible.dataset.records")
    assert 40 * 32 == receiver.total("crucible.training.samples")
    spans = [span.name for span in receiver.spans]
    assert {"run_workflow loading": 1, "train_epoch": 2, "train m": 1, "run_stage worker": 4} == {
        name: spans.count(name) for name in spans if name != "train preparing"
    }


def test_a_terminated_worker_ends_what_it_had_open_as_cancelled(receiver: OtlpReceiver, say: str) -> None:
    """What becomes of a DataLoader's worker whose parent does not wait: SIGTERM in the middle of a batch."""
    ended = run(
        say
        + LOADER
        + """
telemetry = cx.configure()
fork = multiprocessing.get_context("fork")
with cx.workflow("loading"):
    asked, answered = fork.Queue(), fork.Queue()
    process = fork.Process(target=worker, args=(0, asked, answered), daemon=True)
    process.start()
    asked.put("batch")
    pid, _ = answered.get()
    process.terminate()
    process.join(30)
    assert process.exitcode == -15, process.exitcode
say(pid=pid, steps=1)
""",
        sending_to(receiver),
    )

    assert [] == ended.ours
    assert made_by(ended) == steps_by_process(receiver)
    results = {span.name: span.attributes["crucible.result"] for span in receiver.spans}
    left = {"run_workflow loading": "success", "train preparing": "success", "run_stage worker": "cancellation"}
    assert left == results


@pytest.mark.parametrize("ending", ["close", "terminate"])
def test_a_pools_workers_report_their_own_steps(receiver: OtlpReceiver, say: str, ending: str) -> None:
    """``multiprocessing.Pool``, left by ``close`` and ``join``, or by ``terminate`` as at the end of its block."""
    ended = run(
        say
        + f"""
import multiprocessing
telemetry = cx.configure()

def work(item):
    with cx.train("m") as run:
        for _ in range(item):
            run.step(loss=0.5)
    return os.getpid(), item

with cx.workflow("pooling"):
    pool = multiprocessing.get_context("fork").Pool(2)
    for pid, steps in pool.imap_unordered(work, [10, 20, 30, 40]):
        say(pid=pid, steps=steps)
    pool.{ending}()
    pool.join()
    with cx.train("m") as run:
        run.step(loss=0.5)
say(pid=os.getpid(), steps=1)
""",
        sending_to(receiver),
    )

    assert [] == ended.ours
    assert made_by(ended) == steps_by_process(receiver)
    assert 5 == sum(span.name == "train m" for span in receiver.spans)
    assert 1 == sum(span.name == "run_workflow pooling" for span in receiver.spans)


def test_an_executors_workers_report_their_own_steps(receiver: OtlpReceiver, say: str) -> None:
    """``ProcessPoolExecutor`` with forked workers."""
    ended = run(
        say
        + """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
telemetry = cx.configure()

def work(item):
    with cx.train("m") as run:
        for _ in range(item):
            run.step(loss=0.5)
    return os.getpid(), item

with cx.workflow("executing"):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        for pid, steps in executor.map(work, [10, 20, 30, 40]):
            say(pid=pid, steps=steps)
""",
        sending_to(receiver),
    )

    assert [] == ended.ours
    assert made_by(ended) == steps_by_process(receiver)
    assert 4 == sum(span.name == "train m" for span in receiver.spans)


def test_a_child_does_not_serve_the_parents_prometheus_port(receiver: OtlpReceiver) -> None:
    """The parent's goes on with the parent's steps alone, and is free after it although the child lives on."""
    ended = run(
        SAY
        + """
import socket, urllib.request
telemetry = cx.configure(metrics_exporter=("prometheus",))
url = telemetry.prometheus_url
with cx.train("m") as run:
    for _ in range(3):
        run.step(loss=0.5)
    asked, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        for _ in range(4):
            run.step(loss=0.5)
        assert telemetry.prometheus_url is None, telemetry.prometheus_url
        os.read(asked, 1)  # lives on until the parent says so
        os._exit(0)
    os.close(asked)
    text = urllib.request.urlopen(url, timeout=30).read().decode()
    assert 'crucible_training_steps_total{crucible_model_name="m"} 3.0' in text, text
    telemetry.shutdown()
    port = int(url.rpartition(":")[2].partition("/")[0])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
        again.listen()
    os.close(told)
    assert (pid, 0) == os.waitpid(pid, 0)
""",
        sending_to(receiver),
    )

    assert [] == ended.ours
