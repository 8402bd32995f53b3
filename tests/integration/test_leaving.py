"""How a program that is watched ends: in time, by its own signal, with everything delivered that could be."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crucible_otel.semconv.names import INCOMPLETE, RESULT
from crucible_otel.semconv.training import NONFINITE, STEPS
from crucible_otel.testing import OtlpReceiver
from tests.integration.programs import GRACE_S, Ended, Program, overtime, run, sending_to

EXIT_S = 3.0
"""The exit timeout, from the last line of the program on."""

ONE_WARNING = ["telemetry is being", "telemetry ends with"]
"""How what is logged begins: one warning, and the last word."""

LOOP = """
import json, os, sys, time
import crucible_otel as cx

telemetry = cx.configure()
with cx.workflow("slow"):
    with cx.stage("load"):
        pass
    with cx.stage("train"), cx.train("m") as run:
        for epoch in run.epochs(2):
            for batch, step in run.steps([[1, 2, 3]] * 5):
                step.log(loss=0.5)
"""


@contextmanager
def closed_port() -> Iterator[int]:
    """A port at which nothing listens, and nothing else will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def last_line_s(ended: Ended) -> float:
    """Return when the program printed its last line, which says so."""
    return float(ended.output[-1])


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_with_nothing_listening_it_ends_in_time_after_one_warning(protocol: str) -> None:
    """The receiver is not there: one warning, one last word, drops counted, and no waiting for a miracle."""
    with closed_port() as port:

        def leave() -> float:
            ended = run(
                LOOP
                + """
telemetry.flush(timeout_s=0.5)
print(json.dumps([telemetry.flush(timeout_s=5), telemetry.status()["signals"]]))
print(time.monotonic())
""",
                {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
                    "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                    "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
                    "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
                },
            )
            assert ONE_WARNING == [" ".join(line.split()[:3]) for line in ended.errors], ended.errors
            warning, last_word = ended.errors
            assert "connection refused" in warning
            assert f"127.0.0.1:{port}" in last_word
            flushed, signals = json.loads(ended.output[0])
            assert not flushed
            for counts in signals:
                assert 0 < counts["failed"] == counts["accepted"] - counts["delivered"], counts
                assert 0 == counts["delivered"]
            return ended.at_s - last_line_s(ended)

        assert overtime(leave, EXIT_S) < GRACE_S


def test_with_nothing_listening_the_last_line_is_not_followed_by_more_than_the_exit_timeout() -> None:
    """The same without any flush before: one line for all signals, and no retries for a minute."""
    with closed_port() as port:

        def leave() -> float:
            ended = run(
                f"{LOOP}\nprint(time.monotonic())",
                {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_PROMETHEUS_PORT": "0"},
            )
            assert ONE_WARNING[1:] == [" ".join(line.split()[:3]) for line in ended.errors], ended.errors
            return ended.at_s - last_line_s(ended)

        assert overtime(leave, EXIT_S) < GRACE_S


def test_a_hung_receiver_holds_the_exit_no_longer_than_the_exit_timeout(receiver: OtlpReceiver) -> None:
    """It takes the connection and never answers."""
    receiver.hang()

    def leave() -> float:
        ended = run(f"{LOOP}\nprint(time.monotonic())", sending_to(receiver))
        assert 1 == sum(line.startswith("telemetry ends with ") for line in ended.errors)
        assert len(ended.errors) <= 2
        return ended.at_s - last_line_s(ended)

    assert overtime(leave, EXIT_S) < GRACE_S


def test_a_shorter_exit_timeout_is_kept(receiver: OtlpReceiver) -> None:
    """``CRUCIBLE_OTEL_EXIT_TIMEOUT_S`` holds for the whole of leaving."""
    receiver.hang()

    def leave() -> float:
        ended = run(f"{LOOP}\nprint(time.monotonic())", sending_to(receiver, CRUCIBLE_OTEL_EXIT_TIMEOUT_S="0.5"))
        return ended.at_s - last_line_s(ended)

    assert overtime(leave, 0.5, 1.0) < 1.0


TRAINING = """
import sys, time
import crucible_otel as cx
{before}
telemetry = cx.configure()
with cx.workflow("slow"):
    with cx.stage("load"):
        pass
    with cx.stage("train"), cx.train("m") as run:
        for epoch in run.epochs(1_000):
            for batch, step in run.steps([[1, 2, 3]] * 5):
                time.sleep(0.002)
                step.log(loss=0.5)
            if epoch == 2:
                print("running", flush=True)
            {each}
"""


@pytest.mark.parametrize("within_an_epoch", [True, False])
def test_sigterm_in_mid_run_delivers_everything_and_ends_the_process_by_the_signal(
    within_an_epoch: bool, receiver: OtlpReceiver
) -> None:
    """Finished spans, last metrics, and a cancelled ending of what was open; the trace tells the story."""
    each = "if epoch == 2: time.sleep(60)" if within_an_epoch else ""
    with Program(TRAINING.format(before="", each=each), sending_to(receiver)) as program:
        assert "running" == program.line()
        program.terminate()
        ended = program.end()

    assert -signal.SIGTERM == ended.code
    assert [] == ended.errors
    (tree,) = receiver.trace_tree()
    found = {
        node.span.name: (node.span.attributes[RESULT], node.span.attributes.get(INCOMPLETE), node.span.status_code)
        for _, node in tree.walk()
        if node.span.name != "train_epoch"
    }
    cut_short = ("cancellation", True, "unset")
    assert {
        "run_workflow slow": cut_short,
        "run_stage load": ("success", None, "unset"),
        "run_stage train": cut_short,
        "train m": cut_short,
    } == found
    epochs = [node.span for node in tree.find("train_epoch")]
    ends = [(span.attributes[RESULT], span.attributes.get(INCOMPLETE)) for span in epochs]
    finished = ends.count(("success", None))
    # In a loop that goes on the signal may come between two epochs: then none was open.
    cut = [("cancellation", True)] if within_an_epoch or finished < len(ends) else []
    assert [("success", None)] * finished + cut == ends
    assert [()] * len(receiver.spans) == [span.events for span in receiver.spans]
    # Steps that the loop makes while everything leaves count too.
    assert 5 * finished <= receiver.total(STEPS.name)
    assert not within_an_epoch or (2, 15) == (finished, receiver.total(STEPS.name))
    assert 0 == receiver.total("crucible.workflow.run.active")
    assert 1 == receiver.total("crucible.workflow.run.duration", {RESULT: "cancellation"})


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("assert telemetry.flush(); os._exit(0)", 0),
        ("telemetry.shutdown(); os._exit(0)", 0),
        ("", 0),
        ("os.kill(os.getpid(), 15)", -15),
    ],
    ids=["flush", "shutdown", "exit", "sigterm"],
)
def test_the_event_of_a_loss_that_was_not_finite_in_the_last_steps_arrives(
    ending: str, code: int, receiver: OtlpReceiver
) -> None:
    """Nobody has looked at these steps yet: what that finds is to leave with the same flush, or before the end."""
    ended = run(
        f"""
import os, time
import crucible_otel as cx
telemetry = cx.configure()
run = cx.train("m").__enter__()
for loss in (0.5, 0.4, float("nan"), float("nan")):
    run.step(loss=loss)
{ending}
""",
        sending_to(receiver),
        code=code,
    )

    assert [] == ended.errors
    (event,) = [log for log in receiver.logs if log.event_name == NONFINITE.name]
    assert ("ERROR", 3) == (event.severity_text, event.attributes["crucible.training.step"])
    assert 2 == receiver.total(NONFINITE.name)


def test_sigterm_while_a_block_swallows_everything_still_ends_the_process(receiver: OtlpReceiver) -> None:
    """A main thread that never comes back to Python code is not waited for."""
    with Program(
        """
import threading
import crucible_otel as cx

telemetry = cx.configure()
with cx.workflow("stuck"):
    lock = threading.Lock()
    lock.acquire()
    print("running", flush=True)
    while True:
        try:
            lock.acquire()
        except BaseException:
            pass
""",
        sending_to(receiver),
    ) as program:
        assert "running" == program.line()
        program.terminate()
        ended = program.end()

    assert -signal.SIGTERM == ended.code
    (span,) = receiver.spans
    assert ("cancellation", True) == (span.attributes[RESULT], span.attributes[INCOMPLETE])


def test_sigterm_with_a_hung_receiver_ends_the_process_in_time(receiver: OtlpReceiver) -> None:
    """The scheduler that sent the signal sends SIGKILL next; the process is gone before."""
    receiver.hang()

    def leave() -> float:
        with Program(TRAINING.format(before="", each=""), sending_to(receiver)) as program:
            assert "running" == program.line()
            sent_s = time.monotonic()
            program.terminate()
            ended = program.end()
        assert -signal.SIGTERM == ended.code
        return ended.at_s - sent_s

    assert overtime(leave, EXIT_S) < GRACE_S


def test_a_users_sigterm_handler_is_called_at_once_and_telemetry_is_flushed(receiver: OtlpReceiver) -> None:
    """The program decides how it ends: its handler saves, the loop goes on to its own end, nothing is cancelled."""
    before = """
import signal
told = []
signal.signal(signal.SIGTERM, lambda signum, frame: told.append(signum))
"""
    each = """
            if told:
                print("told", flush=True)
                sys.stdin.readline()
                break
"""
    with Program(TRAINING.format(before=before, each=each), sending_to(receiver)) as program:
        assert "running" == program.line()
        program.terminate()
        assert "told" == program.line()
        assert receiver.wait_for(lambda: receiver.total(STEPS.name) and receiver.spans)
        assert "run_workflow slow" not in {span.name for span in receiver.spans}
        program.say("go on")
        ended = program.end()

    assert 0 == ended.code
    assert [] == ended.errors
    (tree,) = receiver.trace_tree()
    assert ("run_workflow slow", "success") == (tree.span.name, tree.span.attributes[RESULT])
    assert [] == [span for span in receiver.spans if INCOMPLETE in span.attributes]


def test_a_keyboard_interrupt_ends_what_is_open_as_cancelled_and_travels_on(receiver: OtlpReceiver) -> None:
    """Ctrl-C in the loop: the usual traceback, the usual exit status, and everything delivered."""
    with Program(TRAINING.format(before="", each=""), sending_to(receiver)) as program:
        assert "running" == program.line()
        program.interrupt()
        ended = program.end()

    assert -signal.SIGINT == ended.code
    assert "KeyboardInterrupt" == ended.errors[-1]
    (tree,) = receiver.trace_tree()
    results = {node.span.name: node.span.attributes[RESULT] for _, node in tree.walk()}
    assert {"cancellation"} == {results[name] for name in ("run_workflow slow", "run_stage train", "train m")}


def test_switched_off_there_is_no_thread_no_port_and_no_socket() -> None:
    """``OTEL_SDK_DISABLED=true``: the program runs as if the package were not there, and the SDK is not even loaded."""
    ended = run(
        """
import json, os, sys, threading

def sockets():
    return [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")
            and os.readlink(f"/proc/self/fd/{name}").startswith("socket:")]

before = sockets()
import crucible_otel as cx
telemetry = cx.configure(handlers=["console"])
with cx.workflow("w"), cx.stage("s"), cx.train("m") as run:
    for epoch in run.epochs(1):
        for batch, step in run.steps([1, 2]):
            step.log(loss=0.5)
    run.step(loss=0.5)
    with run.evaluate("validation") as evaluation:
        evaluation.log(loss=0.1)
heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "prometheus")
loaded = [name for name in sys.modules if name.startswith(heavy)]
print(json.dumps({
    "threads": [thread.name for thread in threading.enumerate()], "sockets": len(sockets()) - len(before),
    "url": telemetry.prometheus_url, "enabled": telemetry.enabled, "loaded": loaded,
    "flush": telemetry.flush(), "shutdown": telemetry.shutdown(),
}))
""",
        {"OTEL_SDK_DISABLED": "true"},
    )

    assert {
        "threads": ["MainThread"], "sockets": 0, "url": None, "enabled": False, "loaded": [],
        "flush": True, "shutdown": True,
    } == json.loads(ended.output[-1])  # fmt: skip
    assert [] == ended.errors
