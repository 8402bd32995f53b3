"""Calls of whole programs: exact under threads and flushes, in forked children, and when the process is ended."""

from __future__ import annotations

import contextvars
import json
import sys
import threading
from collections import Counter

import pytest

import crucible_otel as cx
from crucible_otel.semconv.names import INCOMPLETE, PROCESS_PID, RESULT
from crucible_otel.testing import OtlpReceiver
from crucible_otel.testing.records import ReceivedSpan
from tests.captured import Capture
from tests.integration.programs import Program, run, sending_to

FORKS = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")


def calls(receiver: OtlpReceiver) -> list[ReceivedSpan]:
    """Return the spans of calls, each of which must have come once and have a parent that came too."""
    spans = receiver.spans
    ids = Counter(span.span_id for span in spans)
    assert [] == [span_id for span_id, times in ids.items() if times > 1]
    assert [] == [span.name for span in spans if span.parent_span_id and span.parent_span_id not in ids]
    return [span for span in spans if span.name.startswith("call ")]


def of(receiver: OtlpReceiver) -> Counter[tuple[str, int, str, bool]]:
    """Return the calls: name, process, result, and whether they are incomplete."""
    return Counter(
        (
            span.name,
            span.resource[PROCESS_PID],
            span.attributes.get(RESULT, ""),
            span.attributes.get(INCOMPLETE, False),
        )
        for span in calls(receiver)
    )


def test_the_calls_of_eight_threads_are_counted_and_delivered(capture: Capture) -> None:
    """While others flush, and end the segments that the trace continues in: none lost, none twice, none an orphan."""
    telemetry = capture.configure(trace_span_limit=1_000, queue_max_bytes=2**32)
    over, errors = threading.Event(), []
    shared = cx.call("lib", "shared")

    def flush() -> None:
        while not over.wait(0.01):
            if not telemetry.flush(60):
                errors.append("not delivered in time")

    def work(number: int) -> None:
        try:
            for _ in range(1_500):
                with shared, cx.call("lib", f"own {number}"):
                    pass
        except BaseException as error:
            errors.append(repr(error))

    flushing = [threading.Thread(target=flush) for _ in range(2)]
    with cx.stage("s"):
        context = contextvars.copy_context
        threads = [threading.Thread(target=context().run, args=(work, number)) for number in range(8)]
        for thread in (*flushing, *threads):
            thread.start()
        for thread in threads:
            thread.join()
    over.set()
    for thread in flushing:
        thread.join()
    assert [] == errors
    spans = capture.spans
    ids = {span.context.span_id: span.context.trace_id for span in spans}
    assert len(ids) == len(spans)
    assert [] == [span.name for span in spans if span.parent and ids[span.parent.span_id] != span.context.trace_id]
    sizes = Counter(span.context.trace_id for span in spans)
    assert max(sizes.values()) <= 1_000 + 1  # the stage is not one of them
    names = Counter(span.name for span in spans)
    expected = {"call lib.shared": 12_000, **{f"call lib.own {number}": 1_500 for number in range(8)}}
    assert {**expected, "run_stage s": 1, "trace_segment": len(sizes) - 1} == names
    counted = {point.attributes["code.function.name"]: point.value for point in capture.points("crucible.calls")}
    assert {name.removeprefix("call lib."): number for name, number in expected.items()} == counted
    assert 24_000 == sum(point.count for point in capture.points("crucible.call.duration"))


@pytest.mark.parametrize(("protocol", "rounds"), [("http/protobuf", 500), ("grpc", 300)])
def test_eight_threads_and_concurrent_flushes_lose_and_double_nothing(
    receiver: OtlpReceiver, protocol: str, rounds: int
) -> None:
    """Four calls a round, some nested, some failed, in traces that continue in others: counted and delivered."""
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    ended = run(
        f"rounds = {rounds}"
        + """
import json, sys, threading
import crucible_otel as cx

telemetry = cx.configure(trace_span_limit=1_000, queue_max_bytes=2**32)
over = threading.Event()

def flush():
    while not over.is_set():
        assert telemetry.flush(60)

shared = cx.call("lib", "shared")

def work(number):
    for index in range(rounds):
        with shared:
            pass
        with cx.call("lib", f"own {number}", shard=index) as call:
            call.io(2)
            with cx.call("lib", "inner"):
                pass
        try:
            with cx.call("lib", "odd"):
                if index % 50 == 0:
                    raise ValueError(index)
        except ValueError:
            pass

flushing = [threading.Thread(target=flush) for _ in range(2)]
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in (*flushing, *threads):
    thread.start()
for thread in threads:
    thread.join()
over.set()
for thread in flushing:
    thread.join()
assert telemetry.shutdown(100)
signals = telemetry.status()["signals"]
print(json.dumps([[each["failed"], each["queue_full"]] for each in signals]))
""",
        sending_to(receiver, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint),
    )
    assert {(0, 0)} == {tuple(lost) for lost in json.loads(ended.output[-1])}
    names = Counter((span.name.rstrip("01234567"), span.attributes[RESULT]) for span in calls(receiver))
    assert {
        ("call lib.shared", "success"): 8 * rounds,
        ("call lib.own ", "success"): 8 * rounds,
        ("call lib.inner", "success"): 8 * rounds,
        ("call lib.odd", "success"): 8 * rounds * 49 // 50,
        ("call lib.odd", "failure"): 8 * rounds // 50,
    } == names
    counted: Counter[tuple[str, str]] = Counter()
    for point in receiver.latest("crucible.calls"):
        counted[point.attributes["code.function.name"].rstrip("01234567"), point.attributes[RESULT]] += point.value
    assert {(name.removeprefix("call lib."), result): number for (name, result), number in names.items()} == counted
    durations = sum(point.count for point in receiver.latest("crucible.call.duration"))
    assert (32 * rounds, 16 * rounds) == (durations, receiver.total("crucible.call.io"))


@FORKS
def test_bare_forks_inside_a_call_report_their_own_calls(receiver: OtlpReceiver) -> None:
    """The open call is the parent's, and reported once; what waited in the parent's buffer is not sent twice."""
    ended = run(
        """
import json, os, sys
import crucible_otel as cx

telemetry = cx.configure()
for _ in range(100):
    with cx.call("lib", "before"):
        pass
children = []
with cx.stage("s"):
    with cx.call("lib", "around") as around:
        around.set(first=1)
        for child in range(3):
            pid = os.fork()
            children.append(pid)
            if pid == 0:
                with cx.call("lib", "in a child"):
                    pass
                if child == 0:
                    around.__exit__(None, None, None)
                    with cx.call("lib", "after it in a child"):
                        pass
                if child == 1:
                    cx.call("lib", "open in a child").__enter__()
                if child == 2:
                    assert telemetry.flush(30)
                    os._exit(0)
                sys.exit(0)
        for pid in children:
            assert (pid, 0) == os.waitpid(pid, 0)
    with cx.call("lib", "after"):
        pass
print(json.dumps([os.getpid(), *children]))
""",
        sending_to(receiver),
    )
    assert [] == ended.ours
    parent, first, second, third = json.loads(ended.output[-1])
    assert {
        ("call lib.before", parent, "success", False): 100,
        ("call lib.around", parent, "success", False): 1,
        ("call lib.after", parent, "success", False): 1,
        ("call lib.in a child", first, "success", False): 1,
        ("call lib.after it in a child", first, "success", False): 1,
        ("call lib.in a child", second, "success", False): 1,
        ("call lib.open in a child", second, "cancellation", True): 1,
        ("call lib.in a child", third, "success", False): 1,
    } == of(receiver)
    by_name = {span.name: span for span in calls(receiver)}
    (stage,) = [span for span in receiver.spans if span.name == "run_stage s"]
    assert by_name["call lib.around"].span_id == by_name["call lib.in a child"].parent_span_id
    assert stage.span_id == by_name["call lib.after it in a child"].parent_span_id
    assert 1 == len({span.trace_id for span in calls(receiver) if span.name != "call lib.before"})
    counted: Counter[int] = Counter()
    for point in receiver.latest("crucible.calls"):
        counted[point.resource[PROCESS_PID]] += point.value
    assert {parent: 102, first: 2, second: 2, third: 1} == counted


@FORKS
def test_a_pools_workers_report_their_own_calls(receiver: OtlpReceiver) -> None:
    """Forked inside of a call, while other threads make calls."""
    ended = run(
        """
import json, multiprocessing, os, threading
import crucible_otel as cx

telemetry = cx.configure()

def work(item):
    for _ in range(item):
        with cx.call("lib", "worker"):
            pass
    return os.getpid(), item

over, made = threading.Event(), [0]

def busy():
    while not over.is_set():
        with cx.call("lib", "busy"):
            made[0] += 1
        over.wait(0.001)

thread = threading.Thread(target=busy)
thread.start()
by_pid = {}
with cx.call("lib", "around"), multiprocessing.get_context("fork").Pool(2) as pool:
    for pid, number in pool.imap_unordered(work, [10, 20, 30, 40]):
        by_pid[pid] = by_pid.get(pid, 0) + number
    pool.close()
    pool.join()
over.set()
thread.join()
print(json.dumps([os.getpid(), made[0], by_pid]))
""",
        sending_to(receiver),
    )
    assert [] == ended.ours
    parent, busy, by_pid = json.loads(ended.output[-1])
    assert 100 == sum(by_pid.values())
    assert {
        ("call lib.around", parent, "success", False): 1,
        ("call lib.busy", parent, "success", False): busy,
        **{("call lib.worker", int(pid), "success", False): number for pid, number in by_pid.items()},
    } == of(receiver)


@pytest.mark.parametrize("rate", ["1", "0"])
def test_sigterm_ends_open_calls_as_cancelled_and_incomplete(receiver: OtlpReceiver, rate: str) -> None:
    """Of all threads, and of a generator that waits; what had ended is delivered."""
    with Program(
        """
import sys, threading
import crucible_otel as cx

telemetry = cx.configure()

@cx.call("lib", "generator")
def generate():
    yield 1

def work():
    with cx.call("lib", "thread"):
        ready.set()
        sys.stdin.readline()

ready = threading.Event()
threading.Thread(target=work, daemon=True).start()
assert ready.wait(60)
generator = generate()
next(generator)
for _ in range(10):
    try:
        with cx.call("lib", "ended"):
            raise ValueError
    except ValueError:
        pass
with cx.stage("s"), cx.call("lib", "outer"), cx.inference("m"):
    print("open", flush=True)
    threading.Event().wait()
""",
        sending_to(receiver, CRUCIBLE_OTEL_CALL_SAMPLE_RATE=rate),
    ) as program:
        program.until("open")
        program.terminate()
        ended = program.end()
    assert -15 == ended.code
    results = Counter((span.name, span.attributes[RESULT], span.attributes.get(INCOMPLETE)) for span in receiver.spans)
    left = ("call lib.thread", "call lib.generator", "call lib.outer", "predict m", "run_stage s")
    assert {
        ("call lib.ended", "failure", None): 10,
        **{(name, "cancellation", True): 1 for name in left},
    } == results
    assert 13 == receiver.total("crucible.calls")
