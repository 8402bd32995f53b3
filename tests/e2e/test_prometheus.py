"""A real Prometheus server reads what the program did, whenever it looks."""

from __future__ import annotations

import json
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from crucible_otel.semconv.training import STEP_DURATION, STEPS
from crucible_otel.testing import OtlpReceiver
from tests.e2e.servers import SCRAPE_S, Prometheus, get, promtool
from tests.integration.programs import Ended, Program

START = """
import sys, time
import crucible_otel as cx

def say(line):
    print(line, flush=True)
    assert sys.stdin.readline(), "nobody is there any more"

telemetry = cx.configure()
"""

ALONE = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}


def serving_at(port: int, **more: str) -> dict[str, str]:
    """Return the environment of a program that serves there, and sends nothing."""
    return {**ALONE, "OTEL_EXPORTER_PROMETHEUS_PORT": str(port), **more}


def ends(program: Program) -> Ended:
    """Let a program go on to its end, which must be a quiet one."""
    program.say()
    ended = program.end()
    assert (0, []) == (ended.code, ended.errors)
    return ended


def check_consistency(prometheus: Prometheus, port: int) -> None:
    """Check every scrape there was: one series each, never shrinking, counter and histogram of one mind."""
    selector = f'instance="127.0.0.1:{port}"'
    kinds = {
        "counter": f"crucible_training_steps_total{{{selector}}}",
        "count": f"crucible_training_step_duration_seconds_count{{{selector}}}",
        "buckets": f'crucible_training_step_duration_seconds_bucket{{{selector},le="+Inf"}}',
    }
    found = {kind: prometheus.samples(expression) for kind, expression in kinds.items()}
    assert [1, 1, 1] == [len(series) for series in found.values()]
    counter, count, buckets = (values for series in found.values() for values in series.values())
    assert counter == count == buckets
    assert sorted(counter) == counter
    assert [] == [pair for pair in pairwise(counter) if pair[0][1] > pair[1][1]]
    assert "Error on ingesting" not in prometheus.log_text


def test_the_demo_is_read_exactly(prometheus: Prometheus, tmp_path: Path) -> None:
    """PromQL gives the counts that the demo made: steps, samples, epochs, evaluations, checkpoints, the workflow."""
    pytest.importorskip("sklearn", reason="the demo's extra")
    port = prometheus.take_ports()
    folder = tmp_path / "demo"
    source = f"""
import sys
from crucible_otel.cli import main
raise SystemExit(main(["demo", "--epochs", "3", "--hold", "600", "--out", {str(folder)!r}]))
"""
    with Program(source, {"OTEL_EXPORTER_PROMETHEUS_PORT": str(port)}) as program:
        program.until("Ctrl-C ends it")
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        steps = [event for event in events if event["event"] == "crucible.training.step"]
        made = sum(event["measurements"]["samples"] for event in steps)

        instance = f'{{instance="127.0.0.1:{port}"}}'
        prometheus.becomes(len(steps), f"crucible_training_steps_total{instance}")
        for metric, count in {
            "crucible_training_step_duration_seconds_count": len(steps),
            "crucible_training_samples_total": made,
            "crucible_training_epochs_total": 3,
            "crucible_training_checkpoints_total": 3,
            "crucible_dataset_size": 1797,
            "crucible_workflow_run_active": 0,
        }.items():
            assert [count] == [value for _, value in prometheus.query(f"{metric}{instance}")], metric
        evaluations = prometheus.query(
            f"sum by (crucible_training_split) (crucible_training_evaluations_total{instance})"
        )
        assert {"validation": 3, "test": 1} == {
            labels["crucible_training_split"]: value for labels, value in evaluations
        }
        quantile = f"histogram_quantile(0.5, sum by (le) (crucible_training_step_duration_seconds_bucket{instance}))"
        ((_, median_s),) = prometheus.query(quantile)
        assert 0 < median_s < 10
        ((target, one),) = prometheus.query(f"target_info{instance}")
        assert (1, "crucible-demo") == (one, target["service_name"])
        check_consistency(prometheus, port)
        promtool_is_silent(get(f"http://127.0.0.1:{port}/metrics"))
        program.interrupt()
        assert 0 == program.end().code


def promtool_is_silent(text: str) -> None:
    """Check a scrape with Prometheus's own linter."""
    checked = promtool("check", "metrics", text=text)
    assert (0, "", "") == (checked.returncode, checked.stdout, checked.stderr)


def test_after_three_steps_of_a_slow_loop_a_scrape_shows_three(prometheus: Prometheus) -> None:
    """Nothing has been flushed, and no buffer is full: a scrape folds first."""
    port = prometheus.take_ports()
    source = (
        START
        + """
with cx.train("slow") as run:
    for number, (batch, step) in enumerate(run.steps([[1, 2]] * 100)):
        if number == 3:
            say("three")
            break
        step.log(loss=0.5, learning_rate=1e-3)
say("ended")
"""
    )
    instance = f'{{instance="127.0.0.1:{port}"}}'
    with Program(source, serving_at(port)) as program:
        assert "three" == program.line()
        prometheus.becomes(3, f"crucible_training_steps_total{instance}")
        prometheus.becomes(3, f"crucible_training_step_duration_seconds_count{instance}")
        prometheus.becomes(6, f"crucible_training_samples_total{instance}")
        prometheus.becomes(0.5, f"crucible_training_loss{instance}")
        prometheus.becomes(0.001, f"crucible_training_learning_rate{instance}")
        program.say()
        assert "ended" == program.line()
        prometheus.becomes(1, f"crucible_training_duration_seconds_count{instance}")
        prometheus.becomes(3, f"crucible_training_steps_total{instance}")
        promtool_is_silent(get(f"http://127.0.0.1:{port}/metrics"))
        ends(program)


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_flushes_between_two_scrapes_lose_and_double_nothing(prometheus: Prometheus, temporality: str) -> None:
    """Three of them, and more, between any two scrapes, while the loop goes on; OTLP gets the same counts."""
    port = prometheus.take_ports()
    source = (
        START
        + f"""
made = flushed = 0
with cx.train("flushed") as run:
    end = time.monotonic() + {8 * SCRAPE_S}
    while time.monotonic() < end:
        for _ in range(100):
            run.step(loss=0.5)
            made += 1
        assert telemetry.flush()
        flushed += 1
say(f"{{made}} {{flushed}}")
"""
    )
    with OtlpReceiver() as receiver:
        both = {
            "OTEL_METRICS_EXPORTER": "otlp,prometheus",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality,
        }
        with Program(source, serving_at(port) | both) as program:
            made, flushed = map(int, program.line().split())
            instance = f'{{instance="127.0.0.1:{port}"}}'
            prometheus.becomes(made, f"crucible_training_steps_total{instance}")
            prometheus.becomes(made, f"crucible_training_step_duration_seconds_count{instance}")
            check_consistency(prometheus, port)
            ((values),) = prometheus.samples(f"crucible_training_steps_total{instance}").values()
            ends(program)
        assert made == receiver.total(STEPS.name)
        assert made == receiver.total(STEP_DURATION.name)

    assert flushed > 3 * 8
    assert len({value for _, value in values}) > 3  # it was scraped while it ran


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_two_ranks_on_one_host_are_both_scraped(prometheus: Prometheus, launcher: str) -> None:
    """Rank 1 serves on the next port, and each says in ``target_info`` who it is."""
    base = prometheus.take_ports(2)
    source = (
        START
        + """
import os
rank = int(os.environ.get("RANK") or os.environ["SLURM_PROCID"])
with cx.train("ranks") as run:
    for _ in range(10 + rank):
        run.step(loss=0.5)
    say(telemetry.prometheus_url)
"""
    )
    names = {
        "torchrun": {"RANK": "{}", "LOCAL_RANK": "{}", "WORLD_SIZE": "2"},
        "slurm": {"SLURM_PROCID": "{}", "SLURM_LOCALID": "{}", "SLURM_NTASKS": "2"},
    }[launcher]
    environs = [serving_at(base, **{key: value.format(rank) for key, value in names.items()}) for rank in (0, 1)]
    with Program(source, environs[0]) as first, Program(source, environs[1]) as second:
        assert [f"http://localhost:{base}/metrics", f"http://localhost:{base + 1}/metrics"] == [
            first.line(),
            second.line(),
        ]
        for rank in (0, 1):
            instance = f'{{instance="127.0.0.1:{base + rank}"}}'
            prometheus.becomes(10 + rank, f"crucible_training_steps_total{instance}")
            ((target, _),) = prometheus.query(f"target_info{instance}")
            assert [str(rank), str(rank), "2"] == [
                target[f"crucible_{name}"] for name in ("rank", "local_rank", "world_size")
            ]
        both = f'crucible_training_steps_total{{instance=~"127.0.0.1:({base}|{base + 1})"}}'
        prometheus.becomes(21, f"sum({both})")
        by_rank = f"sum by (crucible_rank) ({both} * on (instance) group_left (crucible_rank) target_info)"
        found = prometheus.query(by_rank)
        assert {"0": 10, "1": 11} == {labels["crucible_rank"]: value for labels, value in found}
        ends(first)
        ends(second)


def test_a_taken_port_moves_on_with_one_clear_line(prometheus: Prometheus) -> None:
    """Whoever came second is scraped on the next free port, and says where."""
    base = prometheus.take_ports(3)
    source = (
        START
        + """
with cx.train("second") as run:
    run.step(loss=0.5)
    say(telemetry.prometheus_url)
"""
    )
    with socket.socket() as first, socket.socket() as second:
        for taken, port in ((first, base), (second, base + 1)):
            taken.bind(("127.0.0.1", port))
            taken.listen()
        with Program(source, serving_at(base)) as program:
            assert f"http://localhost:{base + 2}/metrics" == program.line()
            prometheus.becomes(1, f'crucible_training_steps_total{{instance="127.0.0.1:{base + 2}"}}')
            program.say()
            ended = program.end()

    assert [
        f"Prometheus port {base} on localhost is taken; serving at http://localhost:{base + 2}/metrics"
    ] == ended.errors
    assert 0 == ended.code


def test_a_child_process_disturbs_no_scrape(prometheus: Prometheus) -> None:
    """Forked in mid-loop, stepping on its own, outliving some scrapes: the parent's series stay the parent's."""
    port = prometheus.take_ports()
    source = (
        START
        + f"""
import os
with cx.train("parent") as run:
    for _ in range(5):
        run.step(loss=0.5)
    pid = os.fork()
    if pid == 0:
        for _ in range(100):
            run.step(loss=0.5)
            time.sleep({4 * SCRAPE_S / 100})
        os._exit(0)
    os.waitpid(pid, 0)
    run.step(loss=0.5)
    say("six")
"""
    )
    with Program(source, serving_at(port)) as program:
        assert "six" == program.line()
        prometheus.becomes(6, f'crucible_training_steps_total{{instance="127.0.0.1:{port}"}}')
        check_consistency(prometheus, port)
        ends(program)
