"""configure() and the handle it returns."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

import crucible_otel as cx
from crucible_otel.events.runtime import runtime
from crucible_otel.testing import OtlpReceiver, fresh
from tests.captured import Capture, listen

pytestmark = pytest.mark.usefixtures("fresh")


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Something to send to."""
    with OtlpReceiver() as opened:
        yield opened


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return what our logger said at a level."""
    return [
        record.getMessage() for record in caplog.records if record.name == "crucible_otel" and record.levelno == level
    ]


# -- once --------------------------------------------------------------------------------------------------------------


def test_a_second_call_returns_the_same_handle(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """And names what differs, each field and nothing else; what was given is ignored."""
    telemetry = capture.configure(service_name="first")
    caplog.clear()
    assert telemetry is capture.configure(service_name="first")
    assert [] == said(caplog, logging.WARNING)
    assert telemetry is capture.configure(service_name="second", sample_rate=0.5)
    assert ["configure() was called before; ignored now: service_name, sample_rate"] == said(caplog, logging.WARNING)
    assert "first" == telemetry.settings.service_name


def test_a_second_call_says_no_secret(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """The name of the field, not what is in it."""
    capture.configure()
    capture.configure(headers={"authorization": "Bearer s3cr3t"})
    assert ["configure() was called before; ignored now: headers"] == said(caplog, logging.WARNING)
    assert "s3cr3t" not in caplog.text


def test_what_was_opened_before_is_said_not_to_be_reported(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """Once, by its name, and only if it is still open; what is opened inside it afterwards is reported."""
    with cx.train("before") as run:
        capture.configure()
        run.step(loss=1.0)
        with cx.stage("after"):
            pass
    assert ["the crucible.training around configure() began before it and is not reported"] == said(
        caplog, logging.WARNING
    )
    assert ["run_stage after"] == [span.name for span in capture.spans]

    caplog.clear()
    capture.configure()
    assert [] == said(caplog, logging.WARNING)


def test_a_second_call_attaches_its_handlers_all_the_same(capture: Capture) -> None:
    """A notebook cell that is run again replaces them."""
    capture.configure(handlers=["console"])
    assert ["crucible-kitchen-console"] == list(cx.handlers())
    capture.configure(handlers=["console", ("console", {"id": "other"})])
    assert ["crucible-kitchen-console", "other"] == list(cx.handlers())


def test_many_threads_get_one_handle(capture: Capture) -> None:
    """Whoever comes first configures."""
    found: list[cx.Telemetry] = []
    barrier = threading.Barrier(4)

    def call() -> None:
        barrier.wait()
        found.append(capture.configure())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len({id(telemetry) for telemetry in found})


def test_after_a_shutdown_it_starts_anew(capture: Capture) -> None:
    """With new settings and a pipeline of its own; handlers stay attached, spans of ours and of others arrive."""
    first = capture.configure(service_name="first")
    seen = listen("crucible.stage.stop")
    with cx.stage("one"):
        pass
    assert first.shutdown()
    with cx.stage("between"):
        pass
    assert ["run_stage one"] == [span.name for span in capture.spans]
    again = Capture()
    second = again.configure(service_name="second")
    assert first is not second
    with cx.stage("two"), trace.get_tracer("theirs").start_as_current_span("theirs"):
        pass
    assert ["/run_stage two", "/run_stage two/theirs"] == again.paths()
    assert ["one", "between", "two"] == [metadata["stage"] for _, _, metadata in seen]
    assert second.shutdown()


def test_a_second_shutdown_changes_nothing(capture: Capture) -> None:
    """Neither does a flush afterwards."""
    telemetry = capture.configure()
    assert [True, True] == [telemetry.shutdown(), telemetry.shutdown()]
    assert not telemetry.flush()
    assert telemetry.status()["enabled"] is False


@pytest.mark.parametrize(
    "timeout_s",
    [None, "1", "soon", float("inf"), float("nan"), -1, 10**400, object()],
    ids=["none", "text", "word", "inf", "nan", "negative", "huge", "object"],
)
def test_no_timeout_raises(capture: Capture, timeout_s: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A program must not fail in its last line for a timeout; what cannot be one is said."""
    telemetry = capture.configure()
    telemetry.flush(timeout_s=timeout_s)
    telemetry.shutdown(timeout_s=timeout_s)
    assert telemetry.status()["enabled"] is False
    assert (timeout_s == "soon") == ("flush(timeout_s)='soon' cannot be used" in caplog.text)


def test_as_a_block_it_shuts_down_at_the_end(receiver: OtlpReceiver) -> None:
    """Everything is delivered then, to the address it was given."""
    with cx.configure(endpoint=receiver.http_endpoint, metrics_exporter=("otlp",)) as telemetry, cx.train("m") as run:
        run.step(loss=1.0)
    assert ["train m"] == [span.name for span in receiver.spans]
    assert 1 == receiver.total("crucible.training.steps")
    assert telemetry.status()["enabled"] is False
    assert runtime().projection is None


def test_an_exception_passes_through_the_block(capture: Capture) -> None:
    """What is open is delivered as failed, not as incomplete."""
    with pytest.raises(ValueError, match="boom"), capture.configure(), cx.stage("s"):
        raise ValueError("boom")
    assert "failure" == capture.span("run_stage s").attributes["crucible.result"]


def test_configuring_again_and_again_leaves_nothing_behind(capture: Capture) -> None:
    """Threads end, handlers' listeners and engines go."""
    capture.configure().shutdown()
    before = threading.active_count()
    for _ in range(5):
        assert Capture().configure().shutdown()
    assert before >= threading.active_count()


# -- what it says ------------------------------------------------------------------------------------------------------


def test_it_states_in_one_line_what_it_did(receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture) -> None:
    """Service, run, where each signal goes; no secret."""
    caplog.set_level(logging.INFO, logger="crucible_otel")
    with cx.configure(
        service_name="llm",
        run_id="job-7",
        endpoint=receiver.http_endpoint.replace("http://", "http://user:s3cr3t@"),
        headers={"authorization": "Bearer s3cr3t"},
        metrics_exporter=("otlp", "prometheus"),
        prometheus_port=0,
    ) as telemetry:
        (line,) = said(caplog, logging.INFO)
        url = telemetry.prometheus_url
    assert url is not None
    base = re.escape(receiver.http_endpoint.removeprefix("http://"))
    assert re.fullmatch(
        rf"crucible_otel: service llm, run job-7: (\w+ to http://[^ ]*{base}/v1/\w+; ){{3}}metrics at {re.escape(url)}",
        line,
    )
    assert "s3cr3t" not in line


def test_it_says_when_it_is_switched_off(capture: Capture, caplog: pytest.LogCaptureFixture) -> None:
    """One line too."""
    caplog.set_level(logging.INFO, logger="crucible_otel")
    capture.configure(enabled=False)
    assert ["crucible_otel is switched off"] == said(caplog, logging.INFO)


def test_the_status_tells_what_happened(capture: Capture) -> None:
    """What left, by signal; the handlers with their failures; what is open."""
    telemetry = capture.configure()
    cx.attach_handler("bad", ["crucible.stage.start"], lambda *args: 1 / 0)
    with cx.workflow("w"), cx.stage("s"):
        status = telemetry.status()
    assert (True, {"bad": {"events": ("crucible.stage.start",), "failures": 1, "dropped": 0}}) == (
        status["enabled"],
        status["handlers"],
    )
    assert ["crucible.workflow", "crucible.stage"] == status["open"]
    assert {"traces", "metrics", "logs"} == {each["signal"] for each in status["signals"]}
    assert telemetry.flush()
    delivered = {each["signal"]: each["delivered"] for each in telemetry.status()["signals"]}
    assert 2 == delivered["traces"]
    assert 1 == capture.value("crucible.sdk.handler.failures", crucible__sdk__handler__id="bad")


def test_the_status_tells_what_handlers_lost(capture: Capture, tmp_path: Path) -> None:
    """Events that a file did not take are no failures, and not kept quiet about either."""
    (tmp_path / "file").touch()
    telemetry = capture.configure(handlers=[("jsonl", {"path": tmp_path / "file" / "x"})])
    for _ in range(7):
        cx.execute("e")
    assert runtime().bus.flush(30)
    assert {"events": None, "failures": 0, "dropped": 7} == telemetry.status()["handlers"]["crucible-kitchen-jsonl"]


def test_the_run_id_is_the_jobs(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, the launcher's, or made."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    ids = []
    for fields in ({"run_id": "mine"}, {}):
        with Capture().configure(**fields) as telemetry:
            ids.append(telemetry.run_id)
    monkeypatch.delenv("SLURM_JOB_ID")
    with Capture().configure() as telemetry:
        ids.append(telemetry.run_id)
    assert ids[0] == "mine"
    assert "4711" in ids[1]
    assert ids[2]


# -- from the environment ----------------------------------------------------------------------------------------------


def test_the_environment_alone_is_enough(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Endpoint, name, exporters and handlers by variables; no argument, no Settings."""
    path = tmp_path / "events.jsonl"
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        "OTEL_SERVICE_NAME": "env",
        "OTEL_METRICS_EXPORTER": "otlp",
        "CRUCIBLE_OTEL_HANDLERS": "console,jsonl",
        "CRUCIBLE_OTEL_JSONL_PATH": str(path),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with cx.configure():
        assert {"crucible-kitchen-console", "crucible-kitchen-jsonl"} == set(cx.handlers())
        with cx.workflow("w"):
            pass
    (span,) = receiver.spans
    assert ("run_workflow w", "env") == (span.name, span.resource["service.name"])
    assert "[Kitchen] Workflow started: w" in capsys.readouterr().out
    assert 2 == len(path.read_text().splitlines())


@pytest.mark.parametrize("variable", ["argument", "CRUCIBLE_OTEL_HANDLERS"])
def test_an_unknown_handler_kind_says_which_exist(
    capture: Capture, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """And leaves nothing behind: no pipeline, no thread, no other handler."""
    before = threading.active_count()
    if variable != "argument":
        monkeypatch.setenv(variable, "console,consol")
    handlers = ["console", "consol"] if variable == "argument" else []
    with pytest.raises(cx.UnknownHandlerError, match="unknown handler kind 'consol'; there are: console, jsonl"):
        capture.configure(handlers=handlers)
    assert ({}, None, before) == (cx.handlers(), runtime().owner, threading.active_count())


# -- bad arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("settings", {"settings": "train"}),
        ("settings", {"settings": cx.Settings(), "service_name": "x"}),
        ("service", {"service": "x"}),
        ("sample_rate", {"sample_rate": 2}),
        ("handlers", {"handlers": [5]}),
        ("handlers", {"handlers": 5}),
        ("handlers", {"handlers": [("console",)]}),
        ("handlers", {"handlers": [("console", "stream")]}),
        ("handlers", {"handlers": [(5, {})]}),
        ("colour", {"handlers": [("console", {"colour": "red"})]}),
        ("every", {"handlers": [("console", {"every": 0})]}),
        ("filter", {"handlers": [("console", {"filter": "x"})]}),
        ("path", {"handlers": ["jsonl"]}),
        ("clock", {"clock": 5}),
    ],
    ids=repr,
)
def test_bad_arguments_are_named(field: str, given: Any) -> None:
    """Which, what it was, what is accepted; and nothing is configured."""
    with pytest.raises(cx.ConfigurationError, match=f"^{field}=.* is not usable; accepted: "):
        cx.configure(**given)
    assert ({}, None) == (cx.handlers(), runtime().owner)


def test_a_pipeline_that_cannot_be_built_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call starts from nothing."""
    before = threading.active_count()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier-pigeon")
    with pytest.raises(cx.ConfigurationError, match="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        cx.configure(endpoint="http://127.0.0.1:9", metrics_exporter=("none",))
    assert (None, before) == (runtime().owner, threading.active_count())


# -- handlers ----------------------------------------------------------------------------------------------------------


def test_handlers_may_be_one_name_or_pairs(capture: Capture, tmp_path: Path) -> None:
    """A kind, or a kind and its options, filter and sampling among them."""
    capture.configure(handlers="console")
    lines = tmp_path / "x.jsonl"
    options = {"path": lines, "id": "file", "every": 2, "filter": lambda event, *rest: event == "e"}
    capture.configure(handlers=[("jsonl", options)])
    assert {"crucible-kitchen-console", "file"} == set(cx.handlers())
    for _ in range(4):
        cx.execute("e")
        cx.execute("other")
    assert cx.detach("file")
    assert 2 == len(lines.read_text().splitlines())


def test_attach_returns_the_id(tmp_path: Path) -> None:
    """By which it is detached; a second one of its kind needs an id of its own."""
    assert "crucible-kitchen-console" == cx.attach("console")
    with pytest.raises(cx.DuplicateHandlerError, match="crucible-kitchen-console"):
        cx.attach("console")
    assert "crucible-kitchen-console" == cx.attach("console", replace=True)
    assert "second" == cx.attach("console", id="second")
    assert [True, True, False] == [cx.detach(each) for each in ("second", "crucible-kitchen-console", "second")]
    with pytest.raises(cx.UnknownHandlerError):
        cx.attach("telegram")


def test_attached_before_configure_is_as_good(capture: Capture) -> None:
    """Handlers belong to the process, not to a configuration."""
    seen = listen("crucible_kitchen.training.step")
    capture.configure()
    with cx.train("m") as run:
        run.step(loss=1.0)
    assert [1.0] == [measurements["loss"] for _, measurements, _ in seen]


def test_shutting_down_delivers_what_handlers_accepted(capture: Capture, tmp_path: Path) -> None:
    """Without detaching them."""
    telemetry = capture.configure(handlers=[("jsonl", {"path": tmp_path / "x.jsonl"})])
    for _ in range(100):
        cx.execute("e")
    assert telemetry.shutdown()
    assert 100 == len((tmp_path / "x.jsonl").read_text().splitlines())
    assert ["crucible-kitchen-jsonl"] == list(cx.handlers())


# -- the fixture -------------------------------------------------------------------------------------------------------


def test_fresh_leaves_no_trace(capture: Capture) -> None:
    """What is configured, attached and opened inside is gone afterwards; what was before is back."""
    telemetry = capture.configure()
    outside = listen(handler_id="outside")
    with cx.workflow("around"):
        with fresh():
            assert ({}, None) == (cx.handlers(), runtime().owner)
            inner = Capture().configure(handlers=["console"])
            run = cx.train("left open").start()
            assert run.scope is not None
            assert run.scope.parent is None
        assert inner.status()["enabled"] is False
        assert ["outside"] == list(cx.handlers())
        assert telemetry is runtime().owner
        with cx.stage("s"):
            pass
    assert ["/run_workflow around", "/run_workflow around/run_stage s"] == capture.paths()
    assert 4 == len(outside)
