"""What this process is: the resource that every signal carries."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource

from crucible_otel.semconv import names

if TYPE_CHECKING:
    from crucible_otel.config.settings import Settings

__all__ = ["LAUNCHER_VARIABLES", "build_resource", "launcher_attributes", "local_rank", "process_attributes"]

_logger = logging.getLogger(__name__)

LAUNCHER_VARIABLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (names.RANK, ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")),
    (names.LOCAL_RANK, ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")),
    # OMPI_COMM_WORLD_NODE_RANK is the rank *within* a node, in spite of its name.
    (names.NODE_RANK, ("GROUP_RANK", "SLURM_NODEID")),
    (names.WORLD_SIZE, ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")),
    (
        names.LOCAL_WORLD_SIZE,
        ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
    ),
    (names.RESTART_COUNT, ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")),
)
"""Resource attribute -> the variables it is read from; the first usable one wins: torchrun, Slurm, Open MPI, MPICH.

Each attribute falls through on its own, because scripts that export ``RANK=$SLURM_PROCID`` and no more are common.
"""

_SHOWN = 40
_TORCHRUN_ID, _SLURM_ID = "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"


def launcher_attributes(environ: Mapping[str, str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Read the place of this process in its job.

    Args:
        environ: The environment variables.

    Returns:
        The attributes found, and the variables whose values are not non-negative integers; those are skipped.
    """
    found: dict[str, int] = {}
    malformed: list[str] = []
    for attribute, variables in LAUNCHER_VARIABLES:
        for variable in variables:
            value = environ.get(variable, "").strip()
            if value.isdecimal() and value.isascii() and len(value) <= 18:
                found[attribute] = int(value)
                break
            if value:
                malformed.append(variable)
    return found, tuple(malformed)


def local_rank(environ: Mapping[str, str]) -> int:
    """Return the rank of this process on its host, 0 when no launcher says."""
    return launcher_attributes(environ)[0].get(names.LOCAL_RANK, 0)


def process_attributes() -> dict[str, str | int]:
    """Return what changes with the process; to be read again in a forked child."""
    return {names.PROCESS_PID: os.getpid()}


def build_resource(settings: Settings, environ: Mapping[str, str] | None = None) -> Resource:
    """Build the resource of this process.

    Later wins: what the launcher and the host say, then the SDK's detectors with ``OTEL_RESOURCE_ATTRIBUTES`` and
    ``OTEL_SERVICE_NAME``, then the settings.

    Args:
        settings: Service name, run id and further attributes.
        environ: Where the launcher's variables are read; ``os.environ`` if left out.

    Returns:
        The resource, complete with run id and ``service.instance.id``.
    """
    environ = os.environ if environ is None else environ
    detected, malformed = launcher_attributes(environ)
    if malformed:
        shown = (f"{variable}={environ[variable][:_SHOWN]!r}" for variable in malformed)
        _logger.warning("ignored, not a non-negative integer: %s", ", ".join(shown))
    basis = Resource({**process_attributes(), **_host(), names.RUN_ID: _run_id(environ), **detected})
    given: dict[str, Any] = dict(settings.resource_attributes)
    # The default name must not hide one that is given in OTEL_RESOURCE_ATTRIBUTES.
    if settings.service_name and not settings.service_name.startswith("unknown_service"):
        given[names.SERVICE_NAME] = settings.service_name
    if settings.run_id:
        given[names.RUN_ID] = settings.run_id
    created = Resource.create(given)
    merged = {**basis.attributes, **created.attributes}
    return Resource({**merged, **_as_integers(merged, detected)}, created.schema_url)


def _as_integers(merged: Mapping[str, Any], detected: Mapping[str, int]) -> dict[str, int]:
    """Turn ranks that were given as text (``OTEL_RESOURCE_ATTRIBUTES`` knows nothing else) into numbers."""
    numbers: dict[str, int] = {}
    for attribute, _ in LAUNCHER_VARIABLES:
        value = merged.get(attribute)
        if isinstance(value, str):
            if value.strip().isdecimal():
                numbers[attribute] = int(value)
            elif attribute in detected:
                numbers[attribute] = detected[attribute]
    return numbers


def _host() -> dict[str, str]:
    try:
        return {names.HOST_NAME: socket.gethostname()}
    except OSError:
        return {}


def _run_id(environ: Mapping[str, str]) -> str:
    if job := environ.get(_SLURM_ID, "").strip():
        return job
    job = environ.get(_TORCHRUN_ID, "").strip()
    if job and job.lower() != "none":
        return job
    if job and (agent := _agent()):
        return agent
    return uuid.uuid4().hex


def _agent() -> str | None:
    """Name the torchrun agent that started us, so that ranks of a job without an id share one all the same."""
    parent = os.getppid()
    try:
        start_ticks = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{socket.gethostname()}/{parent}/{start_ticks}").hex
    except (OSError, IndexError):
        return None
