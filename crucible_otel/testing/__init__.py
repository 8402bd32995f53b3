"""What users import in their tests: an embedded OTLP receiver, a clock that they move, GPUs, and a process afresh."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from crucible_otel.testing.afresh import fresh as fresh
    from crucible_otel.testing.clock import FakeClock as FakeClock
    from crucible_otel.testing.inbox import ReceiverCounts as ReceiverCounts
    from crucible_otel.testing.nvml import FakeGpu as FakeGpu
    from crucible_otel.testing.nvml import FakeNvml as FakeNvml
    from crucible_otel.testing.receiver import OtlpReceiver as OtlpReceiver
    from crucible_otel.testing.records import RawRequest as RawRequest
    from crucible_otel.testing.records import ReceivedLog as ReceivedLog
    from crucible_otel.testing.records import ReceivedMetric as ReceivedMetric
    from crucible_otel.testing.records import ReceivedSpan as ReceivedSpan
    from crucible_otel.testing.tree import SpanNode as SpanNode

__all__ = [
    "FakeClock",
    "FakeGpu",
    "FakeNvml",
    "OtlpReceiver",
    "RawRequest",
    "ReceivedLog",
    "ReceivedMetric",
    "ReceivedSpan",
    "ReceiverCounts",
    "SpanNode",
    "fresh",
]

# Loaded when first used: who wants the clock does not need protobuf.
_HOMES: Final[dict[str, str]] = {
    "FakeClock": "clock",
    "FakeGpu": "nvml",
    "FakeNvml": "nvml",
    "OtlpReceiver": "receiver",
    "RawRequest": "records",
    "ReceivedLog": "records",
    "ReceivedMetric": "records",
    "ReceivedSpan": "records",
    "ReceiverCounts": "inbox",
    "SpanNode": "tree",
    "fresh": "afresh",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
