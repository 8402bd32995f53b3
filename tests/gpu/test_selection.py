"""Which devices are sampled: CUDA's words and ours."""

from __future__ import annotations

import pytest

from crucible_otel.gpu.backend import Device
from crucible_otel.gpu.selection import choose

A, B, C = (Device(uuid=f"GPU-{letter * 8}-1111", index=index, model="m") for index, letter in enumerate("abc"))
DIVIDED = Device(uuid="GPU-dddddddd", index=3, model="m", divided=True)
PART_1, PART_2 = (
    Device(uuid=f"MIG-{number}234", index=3, model="m", parent_uuid=DIVIDED.uuid, mig_profile="1g.10gb")
    for number in (1, 2)
)
ALL = (A, B, C, DIVIDED, PART_1, PART_2)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, [(A, "cuda:0"), (B, "cuda:1"), (C, "cuda:2"), (DIVIDED, "cuda:3"), (PART_1, ""), (PART_2, "")]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", [(A, "cuda:1"), (C, "cuda:0")]),
        ("1,-1,0", [(B, "cuda:0")]),
        (" 1 , 9,0", [(B, "cuda:0")]),
        ("GPU-bbbb", [(B, "cuda:0")]),
        ("gpu-BBBBBBBB-1111,0", [(A, "cuda:1"), (B, "cuda:0")]),
        ("GPU-", []),
        ("MIG-1234", [(DIVIDED, ""), (PART_1, "cuda:0"), (PART_2, "")]),
        ("3", [(DIVIDED, "cuda:0"), (PART_1, ""), (PART_2, "")]),
    ],
)
def test_visible_devices_are_sampled(listed: str | None, expected: list[tuple[Device, str]]) -> None:
    """By index, UUID, beginning of one and MIG UUID; behind a word that means nothing CUDA sees no more."""
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    chosen, unknown = choose(ALL, environ)

    if listed == "MIG-1234":
        expected = [each for each in expected if each[0] is not PART_2]
    assert [(device, name or device.uuid) for device, name in expected] == [(each.device, each.name) for each in chosen]
    assert () == unknown


def test_named_devices_win_over_visible_ones() -> None:
    """Names and indices of the setting count, CUDA's names stay CUDA's."""
    chosen, unknown = choose(ALL, {"CUDA_VISIBLE_DEVICES": "1"}, ("0", "gpu-bbbbbbbb-1111", "7", "gpu-x"))

    assert [(A, A.uuid), (B, "cuda:0")] == [(each.device, each.name) for each in chosen]
    assert ("7", "gpu-x") == unknown


def test_all_devices_can_be_asked_for() -> None:
    """Also those that CUDA does not see."""
    chosen, unknown = choose(ALL, {"CUDA_VISIBLE_DEVICES": ""}, ("all",))

    assert list(ALL) == [each.device for each in chosen]
    assert () == unknown
