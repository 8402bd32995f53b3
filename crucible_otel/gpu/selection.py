"""Which devices are sampled, and what this process calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crucible_otel.gpu.backend import Device

__all__ = ["ALL", "VISIBLE_DEVICES", "Chosen", "choose"]

VISIBLE_DEVICES: Final = "CUDA_VISIBLE_DEVICES"
ALL: Final = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """A device that is sampled.

    Attributes:
        device: The device.
        name: ``cuda:0`` by CUDA's count where CUDA sees it, else its UUID.
    """

    device: Device
    name: str


def choose(
    devices: Sequence[Device], environ: Mapping[str, str], wanted: Sequence[str] = ()
) -> tuple[tuple[Chosen, ...], tuple[str, ...]]:
    """Return what is to be sampled, and the words that mean no device.

    Args:
        devices: All there are.
        environ: The environment, of which ``CUDA_VISIBLE_DEVICES`` counts.
        wanted: Indices, UUIDs or beginnings of UUIDs; ``all``; empty for what CUDA sees.

    Returns:
        The devices, in the driver's order. The GPU of a MIG instance comes along, because it has the power, energy and
        temperature; so do all instances of a divided GPU.
    """
    visible = _visible(devices, environ.get(VISIBLE_DEVICES))
    names = {device.uuid: f"cuda:{number}" for number, device in enumerate(visible)}
    unknown: list[str] = []
    if tuple(each.lower() for each in wanted) == (ALL,):
        roots: Iterable[Device] = devices
    elif wanted:
        found = [(word, _named(devices, word)) for word in wanted]
        unknown = [word for word, device in found if device is None]
        roots = [device for _, device in found if device is not None]
    else:
        roots = visible
    taken = {uuid for device in roots for uuid in _with_relatives(device, devices)}
    return (
        tuple(
            Chosen(device=device, name=names.get(device.uuid, device.uuid))
            for device in devices
            if device.uuid in taken
        ),
        tuple(unknown),
    )


def _visible(devices: Sequence[Device], listed: str | None) -> list[Device]:
    """Return what CUDA makes of the variable: everything behind the first word that means no device is not seen."""
    if listed is None:
        return [device for device in devices if device.parent_uuid is None]
    found: list[Device] = []
    for word in listed.split(","):
        device = _named(devices, word.strip())
        if device is None:
            break
        if device not in found:
            found.append(device)
    return found


def _named(devices: Sequence[Device], word: str) -> Device | None:
    if word.isascii() and word.isdigit():
        return next((each for each in devices if each.parent_uuid is None and each.index == int(word)), None)
    folded = word.casefold()
    if not folded.startswith(("gpu-", "mig-")):
        return None
    matching = [each for each in devices if each.uuid.casefold().startswith(folded)]
    exact = [each for each in matching if each.uuid.casefold() == folded]
    candidates = exact or matching
    return candidates[0] if len(candidates) == 1 else None


def _with_relatives(device: Device, devices: Sequence[Device]) -> Iterable[str]:
    yield device.uuid
    if device.parent_uuid is not None:
        yield device.parent_uuid
        return
    yield from (each.uuid for each in devices if each.parent_uuid == device.uuid)
