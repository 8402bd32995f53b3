"""Leaving: real processes, real sockets, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.export.otlp_server import WAIT_S, closed_port, grpc_server, http_server, hung_server

ROOT = Path(__file__).parents[2]
PRELUDE = """
import tests.forks
import faulthandler, multiprocessing, os, signal, sys, threading, time
faulthandler.register(signal.SIGUSR1)
from tests.export.small_pipeline import SmallPipeline
"""
EXIT_TIMEOUT_S = 1.0
SLACK_S = 8.0  # start of Python, imports, and a busy machine


@contextmanager
def program(code: str, endpoint: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program with a pipeline; when the test is over and it is not, show where it hangs and kill it."""
    variables = {
        "CRUCIBLE_OTEL_ENDPOINT": endpoint,
        "CRUCIBLE_OTEL_EXIT_TIMEOUT_S": str(EXIT_TIMEOUT_S),
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_BLRP_SCHEDULE_DELAY": "60000",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env={**os.environ, **variables, **environ},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # Its children as well: one that hangs would hold the pipes open.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGUSR1)
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGKILL)
        if process.stderr is not None and not process.stderr.closed:
            sys.stderr.write(process.communicate()[1])


def run(code: str, endpoint: str, **environ: str) -> tuple[int, str, str]:
    """Run a program to its end and return its status, output and error output."""
    with program(code, endpoint, **environ) as process:
        out, err = process.communicate(timeout=WAIT_S + SLACK_S)
        return process.returncode, out, err


ENDINGS = {
    "end of program": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "exception": ("raise ValueError('mine')", 1),
    "keyboard interrupt": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(20)", -signal.SIGINT),
    "sigterm": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(20)", -signal.SIGTERM),
}
WORK = """
p = SmallPipeline()
p.span("a")
p.logger.emit(event_name="e")
"""


# A semaphore that interruption by a signal does not end: sem_wait is called again by C code, never by Python.
IN_C = (
    WORK
    + """
import ctypes
from multiprocessing import Semaphore
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # of this thread: nothing wakes it, another is told
Semaphore(0).acquire()
"""
)


@pytest.mark.parametrize("ending", ENDINGS)
def test_everything_arrives_however_the_program_ends(ending: str) -> None:
    """Spans and log records that wait in the queues are delivered; the program's own status stays."""
    last, status = ENDINGS[ending]
    with http_server() as received:
        code, _, err = run(f"{WORK}\n{last}", received.endpoint)
    assert (status, ["a"], ["e"]) == (code, received.names(), received.logs)
    assert "telemetry" not in err


@pytest.mark.parametrize("ending", ["end of program", "sigterm"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("place", [closed_port, hung_server], ids=["refused", "hung"])
def test_leaving_is_bounded_and_has_one_last_word(place: Any, protocol: str, ending: str) -> None:
    """With the Collector away the program ends in time, by its own status, and says in one line what was lost."""
    last, status = ENDINGS[ending]
    with place() as endpoint:
        code, out, err = run(
            f"""
            p = SmallPipeline()
            p.span("a")
            p.span("b")
            p.logger.emit(event_name="e")
            print(time.monotonic(), flush=True)
            {last}
            """,
            endpoint,
            CRUCIBLE_OTEL_PROTOCOL=protocol,
        )
    took_s = time.monotonic() - float(out)
    assert status == code
    assert EXIT_TIMEOUT_S + SLACK_S > took_s
    last_words = [line for line in err.splitlines() if "telemetry ends with" in line]
    assert 1 == len(last_words)
    assert "2 spans, 1 log record dropped" in last_words[0]
    assert endpoint in last_words[0]
    assert "Traceback" not in err
    assert "Transient" not in err


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("place", [closed_port, hung_server], ids=["refused", "hung"])
def test_after_leaving_nothing_is_unaccounted_for(place: Any, protocol: str) -> None:
    """What nobody answered for is failed in the status as what was refused is: nothing is on its way any more."""
    with place() as endpoint:
        code, out, err = run(
            """
            import json
            import crucible_otel as cx
            telemetry = cx.configure(gpu="off", metrics_exporter="otlp")
            with cx.workflow("w"), cx.stage("s"):
                pass
            print(json.dumps([telemetry.shutdown(), *telemetry.status()["signals"]]))
            """,
            endpoint,
            CRUCIBLE_OTEL_PROTOCOL=protocol,
        )
    delivered, *signals = json.loads(out)
    assert (0, False) == (code, delivered)
    lost = {each["signal"]: each["failed"] for each in signals}
    assert [0, 0, 0] == [each["delivered"] for each in signals]
    assert lost == {each["signal"]: each["accepted"] - each["queue_full"] for each in signals}
    assert f"{lost['traces']} spans, {lost['logs']} log records, {lost['metrics']} metric points dropped" in err


def test_an_exporter_that_never_returns_holds_nobody() -> None:
    """A user's exporter that blocks for ever costs the exit timeout and no more, in flush, shutdown and at exit."""
    code, out, err = run(
        """
        from opentelemetry.sdk.trace.export import SpanExporter
        class Stuck(SpanExporter):
            def export(self, spans): threading.Event().wait()
            def shutdown(self): threading.Event().wait()
        p = SmallPipeline(span_exporter=Stuck())
        p.span("a")
        p.logger.emit(event_name="e")
        start = time.monotonic()
        print(p.departure.flush(0.2), p.departure.flush(0.2), p.departure.shutdown(1.0), p.departure.shutdown(1.0))
        print(time.monotonic() - start < 5)
        """,
        "http://127.0.0.1:9",
    )
    assert (0, ["False False False False", "True"]) == (code, out.splitlines())
    assert "1 span, 1 log record dropped" in err


def test_flush_says_whether_everything_arrived() -> None:
    """True with a server, False without; afterwards the pipeline goes on."""
    code = 'p = SmallPipeline(); p.span("a"); print(p.departure.flush(10)); p.span("b"); print(p.shutdown(10))'
    with http_server() as received:
        assert "True\nTrue\n" == run(code, received.endpoint)[1]
        assert ["a", "b"] == received.names()
    with http_server(404) as refusing:
        assert "False\nFalse\n" == run(code, refusing.endpoint)[1]


@pytest.mark.parametrize(("later", "delivered"), [(False, "False\nFalse\n"), (True, "False\nTrue\nFalse\n")])
def test_shutdown_says_whether_everything_ever_arrived(later: bool, delivered: str) -> None:
    """A flush tells of itself alone; after one that lost something the end is not called a success."""
    code = f"""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    class Once(SpanExporter):
        answers = [SpanExportResult.FAILURE, SpanExportResult.SUCCESS]
        def export(self, spans): return self.answers.pop(0)
    p = SmallPipeline(span_exporter=Once())
    p.span("lost")
    print(p.departure.flush(10))
    if {later}:
        p.span("b")
        print(p.departure.flush(10))
    print(p.shutdown(10))
    """
    assert delivered == run(code, "http://127.0.0.1:9")[1]


def test_shutdown_is_idempotent_and_safe_from_any_thread() -> None:
    """Eight threads shut down at once; all hear the same and everything is delivered once."""
    with http_server() as received:
        code, out, _ = run(
            """
            said = []
            p = SmallPipeline(before_leaving=said.append)
            p.span("a")
            results = []
            threads = [threading.Thread(target=lambda: results.append(p.departure.shutdown(10))) for _ in range(8)]
            for each in threads: each.start()
            for each in threads: each.join()
            print(results == [True] * 8, said, p.departure.flush(1))
            """,
            received.endpoint,
        )
    assert (0, "True ['shutdown'] False\n", ["a"]) == (code, out, received.names())


def test_open_spans_are_ended_before_leaving() -> None:
    """What the callback ends is still delivered, on exit and on SIGTERM; it hears the reason."""
    for ending, reason in (("", "exit"), (ENDINGS["sigterm"][0], "sigterm")):
        with http_server() as received:
            run(
                f"""
                p = SmallPipeline(before_leaving=lambda reason: (span.update_name(reason), span.end()))
                span = p.tracer.start_span("open")
                {ending}
                """,
                received.endpoint,
            )
        assert [reason] == received.names()


def test_a_callback_that_hangs_does_not_keep_data_back() -> None:
    """Half of the time is its share; then the signals leave without it."""
    with http_server() as received:
        code, _, err = run(
            """
            p = SmallPipeline(before_leaving=lambda reason: threading.Event().wait())
            p.span("a")
            """,
            received.endpoint,
        )
    assert (0, ["a"]) == (code, received.names())
    assert "telemetry" not in err


def test_sigterm_from_outside_ends_a_busy_program_by_the_signal() -> None:
    """While telemetry leaves the program goes on; then it dies of SIGTERM, even if more of them come."""
    with (
        http_server() as received,
        program(WORK + "print('up', flush=True)\nwhile True: sum(range(100))", received.endpoint) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
        assert -signal.SIGTERM == process.wait(WAIT_S)
    assert (["a"], ["e"]) == (received.names(), received.logs)


def test_sigterm_is_served_while_the_main_thread_is_in_c_code() -> None:
    """A main thread that never comes back to Python, as in a collective that hangs, delays neither data nor death."""
    with http_server() as received:
        code, _, _ = run(
            IN_C,
            received.endpoint,
        )
    assert (-signal.SIGTERM, ["a"], ["e"]) == (code, received.names(), received.logs)


def test_the_users_sigterm_handler_is_called_at_once_and_telemetry_goes_on() -> None:
    """Spans made before are flushed, and those made after are delivered too: nothing was shut down."""
    with http_server() as received:
        code, out, _ = run(
            """
            signal.signal(signal.SIGTERM, lambda *_: print("mine"))
            p = SmallPipeline()
            p.span("before")
            os.kill(os.getpid(), signal.SIGTERM)
            print("after")
            deadline = time.monotonic() + 20
            while not p.traces.deliveries[0].tally.counts.delivered and time.monotonic() < deadline: time.sleep(0.01)
            print("flushed", p.departure.closed)
            p.span("after")
            """,
            received.endpoint,
        )
    assert (0, ["mine", "after", "flushed False"]) == (code, out.splitlines())
    assert ["after", "before"] == received.names()


def test_a_user_handler_that_exits_leaves_as_any_exit() -> None:
    """The usual sys.exit(143) handler keeps its status and loses nothing."""
    with http_server() as received:
        code, _, _ = run(
            f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n{WORK}\n{ENDINGS['sigterm'][0]}",
            received.endpoint,
        )
    assert (143, ["a"], ["e"]) == (code, received.names(), received.logs)


def test_an_ignored_sigterm_stays_ignored() -> None:
    """Neither the disposition nor telemetry changes."""
    with http_server() as received:
        code, out, _ = run(
            """
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            p = SmallPipeline()
            os.kill(os.getpid(), signal.SIGTERM)
            print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, p.departure.closed)
            """,
            received.endpoint,
        )
    assert (0, "True False\n") == (code, out)


def test_handle_sigterm_off_leaves_the_signal_alone() -> None:
    """The process dies at once, as without telemetry."""
    code = "p = SmallPipeline(handle_sigterm=False); print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    with http_server() as received:
        assert (0, "True\n") == run(code, received.endpoint)[:2]


def test_a_pipeline_built_off_the_main_thread_takes_no_signal() -> None:
    """Python allows handlers on the main thread only; everything else works."""
    with http_server() as received:
        code, out, _ = run(
            """
            thread = threading.Thread(target=lambda: SmallPipeline().span("a"))
            thread.start()
            thread.join()
            print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
            """,
            received.endpoint,
        )
    assert (0, "True\n", ["a"]) == (code, out, received.names())


def test_after_shutdown_the_signal_is_as_before() -> None:
    """Shutting down by hand gives the previous disposition back."""
    code = "p = SmallPipeline(); p.shutdown(); print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    with http_server() as received:
        assert (0, "True\n") == run(code, received.endpoint)[:2]


def test_a_second_pipeline_after_shutdown_delivers() -> None:
    """What is built anew is installed in the place of the ended one, for other instrumentations as well."""
    with http_server() as received:
        code, _, err = run(
            """
            from opentelemetry import trace
            SmallPipeline().shutdown(10)
            p = SmallPipeline()
            p.span("a")
            trace.get_tracer("other").start_span("b").end()
            """,
            received.endpoint,
        )
    assert (0, ["a", "b"], "") == (code, received.names(), err)


def test_the_program_may_end_while_sigterm_is_served() -> None:
    """The main thread reaches its end first; the process is still ended by the signal."""
    with http_server() as received:
        code, _, _ = run(f"{WORK}\nos.kill(os.getpid(), signal.SIGTERM)", received.endpoint)
    assert (-signal.SIGTERM, ["a"]) == (code, received.names())


CHILD = """
def child(name):
    p.span(name)
p = SmallPipeline()
p.span("parent")
"""
FORKS = {
    "os.fork and sys.exit": (
        "pid = os.fork()\nif not pid:\n    child('child')\n    sys.exit(0)\nos.waitpid(pid, 0)",
        1,
    ),
    "os.fork and sigterm": (
        "pid = os.fork()\nif not pid:\n    child('child')\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(20)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM",
        1,
    ),
    "Process": (
        "c = multiprocessing.get_context('fork').Process(target=child, args=('child',))\nc.start()\nc.join()\n"
        "assert c.exitcode == 0",
        1,
    ),
    "Process that raises": (
        "c = multiprocessing.get_context('fork').Process(target=lambda: (child('child'), 1 / 0))\nc.start()\nc.join()\n"
        "assert c.exitcode == 1",
        1,
    ),
    "Pool, closed": (
        "pool = multiprocessing.get_context('fork').Pool(2)\npool.map(child, ['child'] * 6)\npool.close()\npool.join()",
        6,
    ),
    "Pool, terminated": (
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n    pool.map(child, ['child'] * 6)",
        6,
    ),
    "Pool, terminated before its children have run": (
        "for _ in range(5):\n    with multiprocessing.get_context('fork').Pool(2): pass",
        0,
    ),
    "ProcessPoolExecutor": (
        "from concurrent.futures import ProcessPoolExecutor\n"
        "with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork')) as pool:\n"
        "    list(pool.map(child, ['child'] * 6))",
        6,
    ),
    "thread forks": (
        "c = multiprocessing.get_context('fork').Process(target=child, args=('child',))\n"
        "t = threading.Thread(target=lambda: (c.start(), c.join()))\nt.start()\nt.join()",
        1,
    ),
}


@pytest.mark.parametrize("kind", FORKS)
def test_forked_children_deliver_their_own(kind: str) -> None:
    """Each child's spans arrive once, under an identity of its own, and the parent's only from the parent."""
    code, count = FORKS[kind]
    with http_server() as received:
        status, _, err = run(CHILD + code, received.endpoint, CRUCIBLE_OTEL_EXIT_TIMEOUT_S="10")
    assert 0 == status
    assert "telemetry" not in err
    assert ["child"] * count + ["parent"] == received.names()
    identities = {
        name: {
            (resource["service.instance.id"], resource["process.pid"])
            for each, resource in received.spans
            if each == name
        }
        for name in ("child", "parent")
    }
    assert set() == identities["child"] & identities["parent"]
    assert 1 == len(identities["parent"])


@pytest.mark.parametrize("kind", ["Process", "Pool, terminated"])
def test_forked_children_deliver_over_grpc(kind: str) -> None:
    """A channel that was in use before the fork stays the parent's; the child opens its own."""
    code, count = FORKS[kind]
    with grpc_server() as received:
        status, _, err = run(
            CHILD + "p.departure.flush(10)\n" + code,
            received.endpoint,
            CRUCIBLE_OTEL_EXIT_TIMEOUT_S="10",
            CRUCIBLE_OTEL_PROTOCOL="grpc",
        )
    assert (0, ["child"] * count + ["parent"]) == (status, received.names()), err


def test_a_forked_child_leaves_in_time_without_a_server() -> None:
    """Children do not hold a program up for longer than their two seconds."""
    with (
        hung_server() as endpoint,
        program(
            CHILD
            + "start = time.monotonic()\n"
            + FORKS["Process"][0]
            + "\nprint(time.monotonic() - start, flush=True)",
            endpoint,
            CRUCIBLE_OTEL_EXIT_TIMEOUT_S="60",
            OTEL_EXPORTER_OTLP_TIMEOUT="60",
        ) as process,
    ):
        assert process.stdout is not None
        took_s = float(process.stdout.readline())
    assert SLACK_S > took_s


def test_spawned_children_that_build_their_own_deliver() -> None:
    """A child of multiprocessing that starts from nothing and ends by os._exit delivers too."""
    with http_server() as received:
        status, _, err = run(
            """
            from tests.export.small_pipeline import spawned
            for method in ("spawn", "forkserver"):
                c = multiprocessing.get_context(method).Process(target=spawned, args=(method,))
                c.start()
                c.join()
                assert c.exitcode == 0
            """,
            received.endpoint,
        )
    assert (0, ["forkserver", "spawn"]) == (status, received.names()), err


def test_a_joined_provider_is_flushed_and_never_shut_down() -> None:
    """The application's providers stay in place; nothing of ours is added, and leaving only flushes them."""
    with http_server() as received:
        code, out, _ = run(
            """
            from opentelemetry import trace, _logs
            from opentelemetry.sdk.trace import TracerProvider, SpanProcessor
            from opentelemetry.sdk._logs import LoggerProvider
            calls = []
            class Watch(SpanProcessor):
                def force_flush(self, timeout_millis=30000): calls.append("flush"); return True
                def shutdown(self): calls.append("shutdown")
            theirs = TracerProvider(shutdown_on_exit=False)
            theirs.add_span_processor(Watch())
            trace.set_tracer_provider(theirs)
            _logs.set_logger_provider(LoggerProvider(shutdown_on_exit=False))
            p = SmallPipeline()
            p.span("a")
            print(p.traces.joined, p.logs.joined, p.traces.provider is theirs)
            print(p.departure.flush(5), p.shutdown(5), *calls)
            """,
            received.endpoint,
        )
    assert (0, "True True True\nTrue True flush flush\n", []) == (code, out, received.requests)


def test_queue_overflow_is_counted_and_explained() -> None:
    """A full queue drops, the count says how many, and one warning names the variable to raise."""
    with http_server() as received:
        code, out, err = run(
            """
            p = SmallPipeline()
            for i in range(100): p.span(str(i))
            p.shutdown(10)
            print(*p.ledger.tallies[0].counts)
            """,
            received.endpoint,
            OTEL_BSP_MAX_QUEUE_SIZE="10",
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10",
        )
    accepted, delivered, failed, queue_full = map(int, out.split())
    assert (0, 100, 0, len(received.spans)) == (code, accepted, failed, delivered)
    assert accepted - delivered == queue_full
    assert 1 == sum(
        "telemetry is being lost" in line and "OTEL_BSP_MAX_QUEUE_SIZE" in line for line in err.splitlines()
    )
    assert "Queue full, dropping" not in err


def test_the_sampler_of_the_environment_wins() -> None:
    """OTEL_TRACES_SAMPLER decides over sample_rate, even over the argument."""
    code = 'p = SmallPipeline(sample_rate={rate}); p.span("a")'
    with http_server() as received:
        run(code.format(rate=1.0), received.endpoint, OTEL_TRACES_SAMPLER="always_off")
        assert [] == received.names()
        run(code.format(rate=0.0), received.endpoint)
        assert [] == received.names()
        run(code.format(rate=0.0), received.endpoint, OTEL_TRACES_SAMPLER="always_on")
        assert ["a"] == received.names()
