"""Attributes of every kind, for hypothesis: some that OTLP does not have are among them."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EVERY_TIME_THE_SAME = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""However slow the machine is."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TIMES = st.sampled_from([0, 1, 1_700_000_000_000_000_000, 2**64 - 1])

_SIZES = st.integers(0, 63).flatmap(lambda bits: st.integers(-(2**bits), 2**bits - 1))
_SCALARS = st.booleans() | _SIZES | st.floats() | TEXT | st.binary(max_size=20)
_SAID_BY_NO_OTLP = st.sampled_from(["\ud800", "a\udfffb", 2**63, -(2**70)])
_VALUES = (
    _SCALARS | st.lists(_SCALARS | st.none(), max_size=4) | st.lists(TEXT, max_size=3).map(tuple) | _SAID_BY_NO_OTLP
)

ATTRIBUTES = st.dictionaries(TEXT, _VALUES, max_size=4)
