"""Our side: ``configure()`` with its defaults, against the receiver, and one run."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import crucible_otel as cx
from benchmarks.callers import MODEL, Naive, PrometheusClient
from benchmarks.receiver import receiving
from crucible_otel._setup import Telemetry


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the benchmarks share.

    Attributes:
        telemetry: What ``configure()`` returned.
        run: A run in progress.
        context: The context it is current in.
        naive: Six instruments of the SDK.
        prometheus: Six children of prometheus_client.
        quick: Whether a coarse figure will do.
    """

    telemetry: Telemetry
    run: Any
    context: Context
    naive: Naive
    prometheus: PrometheusClient
    quick: bool


@contextmanager
def setting(quick: bool, **options: Any) -> Iterator[Setting]:
    """Configure telemetry, with its defaults but for these options, and start a run.

    The others are called outside of its context: a span that is sampled and current makes the SDK's histogram
    dearer, by its exemplar.
    """
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    with receiving() as endpoint, cx.configure(endpoint=endpoint, prometheus_port=0, **options) as telemetry:
        context = contextvars.copy_context()
        run = context.run(cx.train(MODEL).start)
        try:
            yield Setting(
                telemetry=telemetry,
                run=run,
                context=context,
                naive=Naive(endpoint),
                prometheus=PrometheusClient(),
                quick=quick,
            )
        finally:
            context.run(run.finish)
