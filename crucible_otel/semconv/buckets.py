"""Bucket bounds of histograms, floats throughout: an integer bound is scraped as ``le="1"`` instead of ``le="1.0"``."""

from __future__ import annotations

from typing import Final

LONG_S: Final = (
    1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0, 259200.0,
)  # fmt: skip
"""Workflows, stages, epochs: a second to three days."""

MID_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Loading, saving, evaluating."""

STEP_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Training steps."""

CALL_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Calls and waits."""

OP_S: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5,
)  # fmt: skip
"""Operations on tensors."""

SIZE_BYTES: Final = tuple(float(256 * 4**power) for power in range(14))
"""256 B to 16 GiB in powers of 4."""

BATCH: Final = tuple(float(2**power) for power in range(13))
"""1 to 4096 in powers of 2."""

ELEMENTS: Final = tuple(float(8**power) for power in range(13))
"""1 to 6.9e10 in powers of 8."""
