"""The resource of the process."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from crucible_otel.config.settings import Settings
from crucible_otel.export.resource import build_resource, launcher_attributes, local_rank
from crucible_otel.semconv import names

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "TORCHELASTIC_RESTART_COUNT": "2",
}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_RESTART_COUNT": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
ORDER = (
    names.RANK,
    names.LOCAL_RANK,
    names.NODE_RANK,
    names.WORLD_SIZE,
    names.LOCAL_WORLD_SIZE,
    names.RESTART_COUNT,
)


def built(**given: Any) -> dict[str, Any]:
    """Build the resource of these settings."""
    return dict(build_resource(Settings(**given).resolve(os.environ)).attributes)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, (5, 1, 1, 8, 4, 2)),
        (SLURM, (3, 0, 3, 4, 1, 1)),
        (OPEN_MPI, (2, 2, None, 4, 4, None)),
        (MPICH, (1, 1, None, 2, 2, None)),
        (MPICH | OPEN_MPI | SLURM | TORCHRUN, (5, 1, 1, 8, 4, 2)),
        (SLURM | {"RANK": "6", "WORLD_SIZE": "7"}, (6, 0, 3, 7, 1, 1)),
        ({}, (None,) * 6),
    ],
    ids=["torchrun", "slurm", "open mpi", "mpich", "torchrun in all others", "script under slurm", "none"],
)
def test_launchers_are_recognised(environ: dict[str, str], expected: tuple[int | None, ...]) -> None:
    """Ranks and sizes are integers, torchrun's before Slurm's before MPI's, each on its own."""
    found, malformed = launcher_attributes(environ)
    assert expected == tuple(found.get(name) for name in ORDER)
    assert () == malformed


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "²", "9" * 30, "0x1"])
def test_malformed_values_fall_through(bad: str) -> None:
    """A value that is no number is named and the next variable is asked."""
    found, malformed = launcher_attributes({"RANK": bad, "SLURM_PROCID": "3"})
    assert ({names.RANK: 3}, ("RANK",)) == (found, malformed)


def test_local_rank_is_zero_without_a_launcher() -> None:
    """The Prometheus port of a plain process is the base port."""
    assert (0, 1, 0) == (local_rank({}), local_rank(TORCHRUN), local_rank({"LOCAL_RANK": "one"}))


def test_malformed_values_warn_and_never_raise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad variable of the launcher costs an attribute, not the run."""
    monkeypatch.setenv("RANK", "many")
    assert names.RANK not in built()
    monkeypatch.setenv("LOCAL_RANK", "-" * 1_000)
    built()
    assert [
        "ignored, not a non-negative integer: RANK='many'",
        f"ignored, not a non-negative integer: RANK='many', LOCAL_RANK='{'-' * 40}'",
    ] == [record.getMessage() for record in caplog.records]


def test_identity_of_process_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pid, host and a service instance id are there, and the SDK's own attributes."""
    resource = built(service_name="train")
    expected = (os.getpid(), socket.gethostname(), "train")
    assert expected == (resource[names.PROCESS_PID], resource[names.HOST_NAME], resource[names.SERVICE_NAME])
    assert 36 == len(resource[names.SERVICE_INSTANCE_ID])


@pytest.mark.parametrize(
    ("environ", "given", "expected"),
    [
        ({"SLURM_JOB_ID": "77", "TORCHELASTIC_RUN_ID": "el"}, {"run_id": "mine"}, "mine"),
        ({"SLURM_JOB_ID": "77", "TORCHELASTIC_RUN_ID": "el"}, {}, "77"),
        ({"TORCHELASTIC_RUN_ID": "el"}, {}, "el"),
        ({"SLURM_JOB_ID": "77", "OTEL_RESOURCE_ATTRIBUTES": f"{names.RUN_ID}=env"}, {}, "env"),
    ],
)
def test_run_id_precedence(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], given: dict[str, str], expected: str
) -> None:
    """The run id is the one given, else the job's."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert expected == built(**given)[names.RUN_ID]


def test_a_generated_run_id_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes without a launcher are two runs."""
    assert built()[names.RUN_ID] != built()[names.RUN_ID]


def test_ranks_of_an_unnamed_torchrun_job_share_a_run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchrun's default id "none" is no id; the agent that started the ranks identifies the job instead."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert "none" != built()[names.RUN_ID]
    assert built()[names.RUN_ID] == built()[names.RUN_ID]


def test_attributes_of_the_environment_and_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings win over OTEL_RESOURCE_ATTRIBUTES, which wins over the launcher; ranks stay integers."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"team=a,zone=x%2Cy,{names.RANK}=4,{names.WORLD_SIZE}=many")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    resource = built(resource_attributes={"team": "b"})
    assert ("b", "x,y", 4, 2) == tuple(resource[key] for key in ("team", "zone", names.RANK, names.WORLD_SIZE))


def test_the_default_service_name_hides_no_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service name inside OTEL_RESOURCE_ATTRIBUTES is kept."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"{names.SERVICE_NAME}=from-env")
    assert "from-env" == built()[names.SERVICE_NAME]
