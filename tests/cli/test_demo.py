"""The demo, run as it is: real training, real sockets."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_otel.cli import demo
from crucible_otel.cli.demo import session
from crucible_otel.cli.demo.result import DemoResult
from crucible_otel.errors import ConfigurationError
from crucible_otel.semconv.names import RUN_ID, SERVICE_INSTANCE_ID, SERVICE_NAME
from crucible_otel.semconv.training import (
    CHECKPOINT_OPERATION,
    CHECKPOINTS,
    EPOCHS,
    EVALUATION_METRIC,
    EVALUATIONS,
    LOSS_GAUGE,
    SAMPLES,
    STEP_DURATION,
    STEP_EVENT,
    STEPS,
)
from crucible_otel.testing import OtlpReceiver, SpanNode
from tests.conftest import CONFIGURES

PROTOCOLS = ("http/protobuf", "grpc")
TRAIN_SAMPLES = 1257


@dataclass(frozen=True)
class Run:
    """One run of the demo and what it printed."""

    result: DemoResult
    receiver: OtlpReceiver
    output: str
    folder: Path


def arguments(*given: object) -> argparse.Namespace:
    """Parse arguments as the command line does."""
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args([str(each) for each in given])


def run(*given: object) -> tuple[DemoResult, str]:
    """Run the demo; return what it returns and prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = demo.run(arguments(*given))
    return result, printed.getvalue()


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Have nothing configured but this; the Prometheus endpoint takes any free port."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if CONFIGURES.fullmatch(name)]:
            patch.delenv(name)
        for name, value in {"CRUCIBLE_OTEL_PROMETHEUS_PORT": "0", **variables}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Run the demo once over each protocol."""
    found = {}
    for protocol in PROTOCOLS:
        folder = tmp_path_factory.mktemp("demo")
        with environment():
            result, output = run("--out", folder, "--protocol", protocol)
        assert result.receiver is not None
        found[protocol] = Run(result, result.receiver, output, folder)
    return found


@pytest.fixture(params=PROTOCOLS)
def finished(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    """One of the runs."""
    return runs[request.param]


def shape(node: SpanNode) -> tuple[str, list[Any]]:
    """Return names, nested."""
    return node.span.name, [shape(child) for child in node.children]


# -- what arrived ----------------------------------------------------------------------------------------------------


def test_the_protocol_is_the_one_asked_for(runs: dict[str, Run]) -> None:
    """Each request came that way."""
    assert {protocol: {protocol} for protocol in PROTOCOLS} == {
        protocol: {request.protocol for request in each.receiver.raw} for protocol, each in runs.items()
    }


def test_the_trace_is_one_tree(finished: Run) -> None:
    """Workflow, stages, training, epochs; evaluations and checkpoints under their epoch."""
    epoch = ("train_epoch", [("evaluate validation", []), ("save_checkpoint", [])])

    assert [
        (
            "run_workflow digits",
            [
                ("run_stage load_dataset", [("load_dataset digits", [])]),
                ("run_stage train", [("train digits-mlp", [epoch] * 3)]),
                ("run_stage evaluate", [("evaluate test", [])]),
            ],
        )
    ] == [shape(root) for root in finished.receiver.trace_tree()]


def test_children_lie_within_their_parents(finished: Run) -> None:
    """A span begins and ends inside the one it belongs to."""
    (root,) = finished.receiver.trace_tree()

    assert [] == [
        child.span.name
        for _, node in root.walk()
        for child in node.children
        if not node.span.start_ns <= child.span.start_ns <= child.span.end_ns <= node.span.end_ns
    ]


def test_metrics_count_what_was_done(finished: Run) -> None:
    """Steps, samples, epochs, evaluations and checkpoints; the histogram's count and buckets are the counter's."""
    receiver, story = finished.receiver, finished.result.story
    (duration,) = receiver.latest(STEP_DURATION.name)

    assert (120, 3 * TRAIN_SAMPLES) == (story.steps, story.samples)
    assert [story.steps, story.samples, 3, 4, 3] == [
        receiver.total(metric.name) for metric in (STEPS, SAMPLES, EPOCHS, EVALUATIONS, CHECKPOINTS)
    ]
    assert (story.steps, story.steps) == (duration.count, sum(duration.buckets))


def test_gauges_hold_the_last_values(finished: Run) -> None:
    """The loss of the last step, and the values of the last evaluation of each part."""
    receiver, result = finished.receiver, finished.result
    (loss,) = receiver.latest(LOSS_GAUGE.name)
    evaluated = {tuple(point.attributes.values())[1:]: point.value for point in receiver.latest(EVALUATION_METRIC.name)}

    assert result.curves.loss[120] == loss.value
    assert (result.story.test_loss, result.story.test_accuracy) == (
        evaluated["test", "loss"],
        evaluated["test", "accuracy"],
    )
    assert {"validation", "test"} == {split for split, _ in evaluated}


def test_logs_are_correlated(finished: Run) -> None:
    """Each event carries the trace, and a span of it; those of steps the span of their epoch."""
    spans = {(span.trace_id, span.span_id): span.name for span in finished.receiver.spans}
    steps = [log for log in finished.receiver.logs if log.event_name == STEP_EVENT.name]

    assert [] == [log.event_name for log in finished.receiver.logs if (log.trace_id, log.span_id) not in spans]
    assert 120 == len(steps)
    assert {"train_epoch"} == {spans[log.trace_id, log.span_id] for log in steps}


def test_all_signals_say_who_they_come_from(finished: Run) -> None:
    """One service, one instance, one run, on spans, metrics and logs alike."""
    receiver = finished.receiver
    records = [*receiver.spans, *receiver.logs, *receiver.points()]
    keys = (SERVICE_NAME, SERVICE_INSTANCE_ID, RUN_ID)
    found = {tuple(record.resource[key] for key in keys) for record in records}

    assert 1 == len(found)
    assert ("crucible-demo", finished.result.run_id) == next((name, run_id) for name, _, run_id in found)


def test_prometheus_was_scraped_in_the_middle(finished: Run) -> None:
    """After the first epoch of three the endpoint shows its steps."""
    assert 'crucible_training_steps_total{crucible_model_name="digits-mlp"} 40.0' in finished.result.scrape
    assert (finished.result.prometheus_url or "none") in finished.output


# -- what was made ---------------------------------------------------------------------------------------------------


def test_the_model_learns(finished: Run) -> None:
    """The loss falls from epoch to epoch, and most digits of the test part are read."""
    curves = finished.result.curves
    losses = list(curves.epoch_loss.values())

    assert [40, 80, 120] == list(curves.epoch_loss)
    assert sorted(losses, reverse=True) == losses
    assert finished.result.story.test_accuracy > 0.9
    assert set(range(1, 121)) == set(curves.loss) == set(curves.learning_rate) == set(curves.gradient_norm)


def test_same_seed_same_losses(runs: dict[str, Run], tmp_path: Path) -> None:
    """Two runs agree to the last digit, whichever way their telemetry took; another seed gives others."""
    http, grpc = (runs[protocol].result for protocol in PROTOCOLS)
    with environment():
        other, _ = run("--out", tmp_path, "--epochs", 1, "--seed", 8)

    assert (http.curves.loss, http.story.test_loss) == (grpc.curves.loss, grpc.story.test_loss)
    assert http.curves.loss[1] != other.curves.loss[1]


def test_checkpoints_are_on_disk(finished: Run) -> None:
    """They hold parameters, and their sizes are those that telemetry tells."""
    saved = finished.result.story.checkpoints
    attribute = next(each.attribute for each in CHECKPOINT_OPERATION.stop.fields if each.name == "size_bytes")
    told = [log.attributes[attribute] for log in finished.receiver.logs if log.event_name.endswith("checkpoint.stop")]

    assert [finished.folder / "checkpoints" / f"epoch_{number}.npz" for number in (1, 2, 3)] == list(saved)
    assert [path.stat().st_size for path in saved] == told
    with np.load(saved[-1]) as parameters:
        assert (64, 1024) == parameters["weight_0"].shape


def test_events_are_in_the_file(finished: Run) -> None:
    """Every line is strict JSON, every step is there, and the first and last are the workflow's."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = finished.result.jsonl.read_text(encoding="utf-8").splitlines()
    events = [json.loads(line, parse_constant=refuse)["event"] for line in lines]

    assert 120 == events.count(STEP_EVENT.name)
    assert ["crucible.workflow.start", "crucible.workflow.stop"] == [events[0], events[-1]]


def test_the_picture_is_drawn(finished: Run) -> None:
    """A PNG file of some substance."""
    assert finished.result.picture is not None
    data = finished.result.picture.read_bytes()

    assert b"\x89PNG\r\n\x1a\n" == data[:8]
    assert len(data) > 10_000


# -- what is printed -------------------------------------------------------------------------------------------------


def test_the_story_is_the_console_handlers(finished: Run) -> None:
    """Its exact lines, steps by the dozen."""
    lines = [line for line in finished.output.splitlines() if line.startswith("[Kitchen] ")]
    steps = [line.split()[2] for line in lines if line.startswith("[Kitchen] Step ")]

    assert ["[Kitchen] Workflow started: digits", "[Kitchen] Stage started: load_dataset"] == lines[:2]
    assert [f"{step}/120" for step in range(1, 121, 10)] == steps
    assert [f"[Kitchen] Epoch {number}/3 complete" for number in (1, 2, 3)] == [x for x in lines if "Epoch" in x]
    assert [f"[Kitchen] Checkpoint saved: epoch_{number}" for number in (1, 2, 3)] == [
        line for line in lines if "Checkpoint" in line
    ]
    assert lines[-1].startswith("[Kitchen] Workflow completed in ")


def test_the_report_shows_what_arrived(finished: Run) -> None:
    """The tree, the metrics, the events and the files, in plain text."""
    output = finished.output
    expected = (
        "run_workflow digits",
        "save_checkpoint epoch_3",
        STEPS.name,
        "151 of 151 carry the id of the trace",
        "curl -s http",
        str(finished.result.picture),
        str(finished.result.jsonl),
        str(finished.folder / "checkpoints"),
    )

    assert [] == [text for text in expected if text not in output]
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 160


# -- other ways to run it --------------------------------------------------------------------------------------------


def test_an_endpoint_in_the_environment_is_used(tmp_path: Path) -> None:
    """What is sent goes there, and the demo says so; service name and run id are the environment's too."""
    with (
        OtlpReceiver() as elsewhere,
        environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=elsewhere.http_endpoint,
            OTEL_SERVICE_NAME="mine",
            CRUCIBLE_OTEL_RUN_ID="run-7",
        ),
    ):
        result, output = run("--out", tmp_path, "--epochs", 1)
        resource = elsewhere.spans[0].resource

        assert (None, True) == (result.receiver, result.delivered)
        assert (40, 1) == (elsewhere.total(STEPS.name), len(elsewhere.trace_tree()))
        assert ("mine", "run-7") == (resource[SERVICE_NAME], resource[RUN_ID])
        assert elsewhere.http_endpoint in output
        assert 40 == len(result.curves.loss)


def test_an_endpoint_of_one_signal_is_used(tmp_path: Path) -> None:
    """Then nothing is received inside."""
    with (
        OtlpReceiver() as elsewhere,
        environment(
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{elsewhere.http_endpoint}/v1/traces",
            OTEL_METRICS_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
        ),
    ):
        result, _ = run("--out", tmp_path, "--epochs", 1)

        assert result.receiver is None
        assert 1 == len(elsewhere.trace_tree())
        assert ((), ()) == (elsewhere.logs, elsewhere.points())


def test_telemetry_switched_off_is_said(tmp_path: Path) -> None:
    """The model is trained all the same."""
    with environment(OTEL_SDK_DISABLED="true"):
        result, output = run("--out", tmp_path, "--epochs", 1)

    assert (40, None, False) == (result.story.steps, result.picture, result.jsonl.exists())
    assert "telemetry is switched off" in output


def test_quiet_says_only_where_the_files_are(tmp_path: Path) -> None:
    """One line for each."""
    with environment():
        result, output = run("--out", tmp_path, "--epochs", 1, "--quiet")

    assert [str(result.picture), str(result.jsonl), str(tmp_path / "checkpoints")] == [
        line.split()[1] for line in output.splitlines()
    ]


def test_hold_keeps_the_prometheus_endpoint_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as was asked, after everything else is said."""
    printed, scrapes = io.StringIO(), []
    really = session.time.sleep

    def sleep(duration_s: float) -> None:
        if threading.current_thread() is not threading.main_thread():  # one that exports, which pauses now and then
            really(duration_s)
            return
        url = next(word for word in printed.getvalue().split() if word.endswith("/metrics"))
        with urllib.request.urlopen(url, timeout=20) as response:
            scrapes.append((duration_s, response.read().decode()))

    monkeypatch.setattr(session.time, "sleep", sleep)
    with environment(), contextlib.redirect_stdout(printed):
        demo.run(arguments("--out", tmp_path, "--epochs", 1, "--hold", 30))

    assert [30.0] == [duration_s for duration_s, _ in scrapes]
    assert 'crucible_training_steps_total{crucible_model_name="digits-mlp"} 40.0' in scrapes[0][1]


def test_an_interrupt_ends_the_hold_from_the_moment_it_is_announced(tmp_path: Path) -> None:
    """Whoever reads the line may be quicker than the program's next statement."""

    class Impatient(io.StringIO):
        def write(self, text: str) -> int:
            written = super().write(text)
            if "Ctrl-C ends it" in text:
                raise KeyboardInterrupt
            return written

    with environment(), contextlib.redirect_stdout(Impatient()):
        try:
            result = demo.run(arguments("--out", tmp_path, "--epochs", 1, "--hold", 600))
        except KeyboardInterrupt:  # it would end the whole test run
            pytest.fail("the interrupt got through")

    assert result.delivered


def test_a_run_replaces_the_events_of_the_last_one(tmp_path: Path) -> None:
    """The file tells of one run."""
    with environment():
        for _ in range(2):
            result, _ = run("--out", tmp_path, "--epochs", 1)

    assert 40 == result.jsonl.read_text(encoding="utf-8").count(f'"{STEP_EVENT.name}"')


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    """Before anything is trained, and nothing stays behind for the next run."""
    with environment(OTEL_EXPORTER_OTLP_PROTOCOL="smoke"), pytest.raises(ConfigurationError, match="smoke"):
        run("--out", tmp_path, "--epochs", 1)


@pytest.mark.torch
def test_torch_is_used_where_it_is_installed(tmp_path: Path) -> None:
    """The same story with PyTorch's model, whose losses are tensors."""
    with environment():
        result, _ = run("--out", tmp_path)

    assert result.receiver is not None
    assert [f"epoch_{number}.pt" for number in (1, 2, 3)] == [path.name for path in result.story.checkpoints]
    assert result.story.steps == result.receiver.total(STEPS.name) == len(result.curves.loss)
    assert result.story.test_accuracy > 0.9
    losses = list(result.curves.epoch_loss.values())
    assert sorted(losses, reverse=True) == losses
