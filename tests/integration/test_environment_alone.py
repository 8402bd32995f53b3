"""The README's loop as it stands there: four added lines, and everything else said by the environment."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from crucible_otel.semconv import names
from crucible_otel.semconv.training import LOSS_GAUGE, STEP_DURATION, STEPS
from crucible_otel.testing import OtlpReceiver, SpanNode
from tests.integration.programs import ROOT, Ended, Program, run

EPOCHS, STEPS_AN_EPOCH = 3, 50
MADE = EPOCHS * STEPS_AN_EPOCH

SCRAPE = """
import urllib.request
url = f"http://localhost:{__import__('sys').stdin.readline().strip()}/metrics"
text = urllib.request.urlopen(url, timeout=30).read().decode()
print([line for line in text.splitlines() if line.startswith("crucible_training_steps_total")])
"""
"""What a test adds to a program, so that it lives until it has been scraped."""


def readme_loop() -> str:
    """Return the README's own loop."""
    found = re.search(r"<!-- loop -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def free_ports(count: int = 1) -> int:
    """Return a port with so many free ones from it on."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            base: int = first.getsockname()[1]
            if base + count > 65_535:
                continue
            try:
                for port in range(base + 1, base + count):
                    with socket.socket() as next_one:
                        next_one.bind(("127.0.0.1", port))
            except OSError:
                continue
        return base


def environment(receiver: OtlpReceiver, protocol: str, port: int, **more: str) -> dict[str, str]:
    """Return what a newcomer exports."""
    return {
        "OTEL_SERVICE_NAME": "line",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "CRUCIBLE_OTEL_HANDLERS": "console",
        **more,
    }


def only(values: list[Any]) -> Any:
    """Return the one value that all are."""
    assert values
    assert [] == [value for value in values if value != values[0]]
    return values[0]


def resources(receiver: OtlpReceiver) -> list[dict[str, Any]]:
    """Return the resource of everything that arrived, of all three signals."""
    arrived: list[Any] = [*receiver.spans, *receiver.logs, *receiver.points()]
    return [dict(each.resource) for each in arrived]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_everything_arrives_with_nothing_but_environment_variables(receiver: OtlpReceiver, protocol: str) -> None:
    """One tree, exact counts, correlated logs, one resource; the console and the Prometheus endpoint as asked."""
    port = free_ports()
    with Program(readme_loop() + SCRAPE, environment(receiver, protocol, port)) as program:
        program.say(str(port))
        ended = program.end()

    assert (0, []) == (ended.code, ended.errors)
    assert f"""['crucible_training_steps_total{{crucible_model_name="line"}} {MADE}.0']""" == ended.output[-1]
    assert f"[Kitchen] Step {MADE}" in "\n".join(ended.output)

    assert protocol == only([request.protocol for request in receiver.raw])
    assert {"traces", "metrics", "logs"} == {request.signal for request in receiver.raw}
    (tree,) = receiver.trace_tree()
    assert ("train line", ["train_epoch"] * EPOCHS) == (tree.span.name, [node.span.name for node in tree.children])
    for metric in (STEPS, STEP_DURATION):
        assert MADE == receiver.total(metric.name, {names.MODEL_NAME: "line"})
    assert 16 * MADE == receiver.total("crucible.training.samples")
    assert [] == uncorrelated(receiver, tree)

    resource = only(resources(receiver))
    assert "line" == resource[names.SERVICE_NAME]
    assert isinstance(resource[names.PROCESS_PID], int)
    assert re.fullmatch(r"[0-9a-f]{32}", resource[names.RUN_ID])
    assert resource[names.SERVICE_INSTANCE_ID]
    assert names.RANK not in resource


def uncorrelated(receiver: OtlpReceiver, tree: SpanNode) -> list[str]:
    """Return the events that are not in a span of the tree, after those that should be in one of their own."""
    spans = {node.span.span_id: node.span for _, node in tree.walk()}
    for log in receiver.logs:
        if log.event_name == "crucible.training.step":
            assert "train_epoch" == spans[log.span_id].name
            assert spans[log.span_id].attributes["crucible.training.epoch"] == log.attributes["crucible.training.epoch"]
        if log.event_name.startswith("crucible.training.epoch."):
            assert "train_epoch" == spans[log.span_id].name
    # The first and the last step of an epoch at least, whatever the rate limit.
    assert 2 * EPOCHS <= sum(log.event_name == "crucible.training.step" for log in receiver.logs)
    inside = (tree.span.trace_id, True)
    return [log.event_name for log in receiver.logs if (log.trace_id, log.span_id in spans) != inside]


LAUNCHERS = [
    (
        {
            "TORCHELASTIC_RUN_ID": "job-7", "RANK": "{rank}", "LOCAL_RANK": "{rank}", "GROUP_RANK": "0",
            "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "1",
        },
        {names.RUN_ID: "job-7", names.NODE_RANK: 0, names.LOCAL_WORLD_SIZE: 2, names.RESTART_COUNT: 1},
    ),
    (
        {
            "SLURM_JOB_ID": "4711", "SLURM_PROCID": "{rank}", "SLURM_LOCALID": "{rank}", "SLURM_NODEID": "3",
            "SLURM_NTASKS": "2",
        },
        {names.RUN_ID: "4711", names.NODE_RANK: 3},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "expected"), LAUNCHERS, ids=["torchrun", "slurm"])
def test_two_ranks_of_a_job_share_its_run_id_and_differ_in_the_rest(
    receiver: OtlpReceiver, variables: dict[str, str], expected: dict[str, Any]
) -> None:
    """Both alive at once on one host: each its own instance, trace and Prometheus port."""
    base = free_ports(2)
    programs = [
        Program(
            readme_loop() + SCRAPE,
            environment(
                receiver, "http/protobuf", base, **{key: value.format(rank=rank) for key, value in variables.items()}
            ),
        )
        for rank in range(2)
    ]
    ended: list[Ended] = []
    with programs[0], programs[1]:
        for program in programs:
            program.until("weight")  # both shall serve at once
        for rank, program in enumerate(programs):
            program.say(str(base + rank))
        ended = [program.end() for program in programs]

    assert [(0, []), (0, [])] == [(each.code, each.errors) for each in ended]
    assert [str(float(MADE))] * 2 == [re.findall(r"} (\S+)'", each.output[-1])[0] for each in ended]
    found = {json.dumps(resource, sort_keys=True): resource for resource in resources(receiver)}
    by_rank = {resource[names.RANK]: resource for resource in found.values()}
    assert 2 == len(found) == len(by_rank)
    for rank, resource in by_rank.items():
        assert {**expected, names.RANK: rank, names.LOCAL_RANK: rank, names.WORLD_SIZE: 2} == {
            key: resource[key] for key in (*expected, names.RANK, names.LOCAL_RANK, names.WORLD_SIZE)
        }
    assert 2 == len({resource[names.SERVICE_INSTANCE_ID] for resource in by_rank.values()})
    assert [MADE, MADE] == [point.value for point in receiver.latest(STEPS.name)]
    assert 2 * MADE == receiver.total(STEPS.name)
    assert 2 == len(receiver.latest(LOSS_GAUGE.name))
    assert ["train line"] * 2 == [tree.span.name for tree in receiver.trace_tree()]


def test_a_json_lines_file_is_asked_for_by_variables_too(receiver: OtlpReceiver, tmp_path: Path) -> None:
    """``CRUCIBLE_OTEL_HANDLERS`` and ``CRUCIBLE_OTEL_JSONL_PATH``."""
    path = tmp_path / "events.jsonl"
    run(
        readme_loop(),
        environment(receiver, "http/protobuf", 0, CRUCIBLE_OTEL_HANDLERS="jsonl", CRUCIBLE_OTEL_JSONL_PATH=str(path)),
    )

    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert MADE == events.count("crucible.training.step")
    assert EPOCHS == events.count("crucible.training.epoch.stop")
