"""A program that nobody would write: every public verb, with hostile values, in an order that a seed decides.

Time is a clock that the program moves itself, by odd numbers of nanoseconds, so that it knows how long everything took.
What it keeps in its :class:`Ledger` is what it did, known without asking any telemetry.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

import crucible_otel as cx
from crucible_otel.semconv.training import STEP_DURATION
from crucible_otel.testing import FakeClock
from crucible_otel.verbs.run import Run

VALUES: Final[Mapping[str, Any]] = {
    "text": "plain",
    "unicode": "Grüße, 世界 🚀 \u202e",
    "empty": "",
    "controls": 'line\nline\ttab\r"quoted"\\ \x00 \x01 \x7f \u2028',
    "long": "ä" * 5_000,
    "int": -42,
    "zero": 0,
    "int_max": 2**63 - 1,
    "int_min": -(2**63),
    "beyond_doubles": 2**53 + 1,
    "beyond_64_bits": 2**70,
    "float": 0.1,
    "whole_float": 3.0,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "negative_zero": -0.0,
    "nan": math.nan,
    "inf": math.inf,
    "negative_inf": -math.inf,
    "true": True,
    "false": False,
    "nothing": None,
    "texts": ["a", "", "ü", "世界"],
    "ints": [1, -(2**63), 2**63 - 1],
    "floats": [0.1, -0.0, 1e-300, math.inf],
    "bools": [True, False],
    "no_items": [],
    "tuple": (1.5, 2.0),
    "mixed": [1, "a", None, 2.5],
    "map": {"a": {"b": [1, {"c": math.nan}]}, "ü": "世"},
    "bytes": b"\x00\xff",
    "path": Path("/data/ä.bin"),
    "dotted.key with spaces/and-ünicode": 1,
}
"""What attributes are made of."""

LOSSES: Final = (0.5, -1.25, 0.0, 1e-30, -1e30, math.nan, math.inf, -math.inf, 2, -0.0)
MODELS: Final = ("llama-tiny", "gpt ü", "critic/β")
MERGED, BY_NAME = "merged", "by name"
"""Models whose steps are not timed one by one."""

_REMOTE: Final = TraceState([("vendor", "00f067aa0ba902b7"), ("other", "t61rcWkgMzE")])
_path: ContextVar[tuple[str, ...]] = ContextVar("path", default=())
Key = tuple[str, frozenset[tuple[str, str]]]


class Broken(Exception):
    """What goes wrong in the story."""


class Ledger:
    """What the program did, counted by the program.

    Attributes:
        paths: The spans that its verbs stand for, as the names from the root to each.
        counts: What a counter, or the count of a histogram, must show in Prometheus.
        gauges: What a gauge must show; None when it must show nothing.
        step_durations_s: Model -> duration of each step.
        events: Name -> how many log events of it there must be.
    """

    def __init__(self) -> None:
        self.paths: Counter[str] = Counter()
        self.counts: Counter[Key] = Counter()
        self.gauges: dict[Key, float | None] = {}
        self.step_durations_s: defaultdict[str, list[float]] = defaultdict(list)
        self.events: Counter[str] = Counter()

    def count(self, metric: str, amount: int = 1, /, **labels: str) -> None:
        """Add to a counter; a label without a value is none."""
        self.counts[metric, frozenset((key, value) for key, value in labels.items() if value)] += amount

    def gauge(self, metric: str, value: float, /, **labels: str) -> None:
        """Set a gauge; what is not finite takes it away."""
        self.gauges[metric, frozenset(labels.items())] = value if math.isfinite(value) else None

    def step_buckets(self, model: str) -> list[int]:
        """Return how many steps of a model fall into each bucket of the histogram of their durations."""
        buckets = [0] * (len(STEP_DURATION.buckets) + 1)
        for duration_s in self.step_durations_s[model]:
            buckets[bisect_left(STEP_DURATION.buckets, duration_s)] += 1
        return buckets


class Story:
    """One telling.

    Args:
        seed: What everything in it depends on, but ids and the time of day.
        clock: The clock that telemetry goes by.
        folder: For checkpoints.
        pause: Called now and then between two acts, to flush for instance.

    Attributes:
        ledger: What was done.
    """

    def __init__(self, seed: int, clock: FakeClock, folder: Path, pause: Callable[[], object]) -> None:
        self._random, self._clock, self._folder, self._pause = random.Random(seed), clock, folder, pause
        self._numbers = iter(range(1, 1_000_000))
        self.ledger = Ledger()

    def tell(self) -> None:
        """Do everything twice, in an order of the seed's, inside a workflow or outside any."""
        acts = [
            self._blocks,
            self._decorators,
            self._generators,
            self._coroutines,
            self._failures,
            self._epochs,
            self._by_hand,
            self._points,
            self._datasets,
            self._own_spans,
            self._of_the_application,
            self._remote_parent,
            self._emitted,
            self._aliases,
        ] * 2
        self._random.shuffle(acts)
        for number, act in enumerate(acts):
            pause = self._pause if number % 9 == 4 else lambda: None
            if self._random.random() < 0.7:
                with self._workflow():
                    act()
                    pause()
            else:
                act()
                pause()
            self._goes_by()

    # -- what acts are made of ---------------------------------------------------------------------------------------

    def _goes_by(self, most_s: float = 2.0) -> float:
        """Let an odd number of nanoseconds pass; return it in seconds."""
        passed_ns = 2 * self._random.randrange(round(most_s * 5e8)) + 1
        self._clock.advance(passed_ns / 1e9)
        return passed_ns / 1e9

    def _some(self, count: int = 6) -> dict[str, Any]:
        """Return some values under keys of the user's own."""
        return {f"own.{key}": VALUES[key] for key in self._random.sample(sorted(VALUES), count)}

    def _new(self, stem: str) -> str:
        return f"{stem} {next(self._numbers)}"

    @contextlib.contextmanager
    def _at(self, *spans: str) -> Iterator[None]:
        """Note the last of these spans as open while the block runs; those before it are noted elsewhere."""
        path = (*_path.get(), *spans)
        self.ledger.paths["/".join(path)] += 1
        token = _path.set(path)
        try:
            yield
        finally:
            _path.reset(token)

    @contextlib.contextmanager
    def _workflow(self) -> Iterator[None]:
        name = self._random.choice(["digits", "fine tune", "Größe, 世界"])
        tags = {key: self._random.choice(list(VALUES.values())) for key in ("first", "zweites ü", "third.part")}
        with (
            self._at(f"run_workflow {name}"),
            cx.workflow(name, run_id=self._new("run"), tags=tags, **self._some(2)) as workflow,
        ):
            self._goes_by()
            yield
            workflow.set(**self._some(1))
        self.ledger.count(
            "crucible_workflow_run_duration_seconds_count", crucible_workflow_name=name, crucible_result="success"
        )
        self.ledger.events["crucible.workflow.start"] += 1

    # -- acts: blocks and functions ----------------------------------------------------------------------------------

    def _blocks(self) -> None:
        with self._at("run_stage prepare"), cx.stage("prepare", module="prep.Module", index=3, **self._some()):
            self._goes_by()
            with self._at("run_stage inner"), cx.stage("inner") as stage:
                stage.set(**self._some(2))
                self._random.choice([stage.skip, stage.fail])("weil ü")

    def _decorators(self) -> None:
        @cx.stage("tokenize {shard}", **self._some(3))
        def tokenize(shard: int) -> None:
            self._goes_by()

        for shard in range(3):
            with self._at(f"run_stage tokenize {shard}"):
                tokenize(shard)

    def _generators(self) -> None:
        @cx.stage("generate")
        def generate() -> Iterator[int]:
            for number in range(3):
                with self._at("run_stage generate", "inside"), cx.span("inside", self._some(1)):
                    self._goes_by()
                yield number

        with self._at("run_stage generate"):
            pass
        for _ in generate():
            with self._at("between two items"), cx.span("between two items"):
                self._goes_by()

    def _coroutines(self) -> None:
        @cx.stage("await {which}")
        async def awaited(which: str) -> None:
            with self._at(f"run_stage await {which}"):
                await asyncio.sleep(0)
                with self._at("awaiting"), cx.span("awaiting", self._some(2)):
                    await asyncio.sleep(0)
                    self._goes_by()

        @cx.stage("stream")
        async def streamed() -> AsyncIterator[int]:
            for number in range(3):
                await asyncio.sleep(0)
                yield number

        async def main() -> None:
            with self._at("run_stage stream"):
                async for _ in streamed():
                    self._goes_by()
            await asyncio.gather(*(awaited(which) for which in ("a", "b", "c")))

        asyncio.run(main())

    def _failures(self) -> None:
        workflow = _path.get()[0].removeprefix("run_workflow ") if _path.get() else ""
        errors: list[tuple[BaseException, str, str]] = [
            (Broken("zerbrochen ü 🚀\nsecond line"), "failure", f"{Broken.__module__}.Broken"),
            (ValueError(), "failure", "ValueError"),
            (TimeoutError("too late"), "timeout", "TimeoutError"),
            (asyncio.CancelledError(), "cancellation", ""),
            (KeyboardInterrupt(), "cancellation", ""),
            (SystemExit(0), "success", ""),
            (SystemExit(3), "failure", "SystemExit"),
        ]
        for error, result, kind in errors:
            name = self._random.choice(["fragile", "zerbrechlich ü"])
            with (
                contextlib.suppress(type(error)),
                self._at(f"run_stage {name}"),
                cx.stage(name),
                self._at("risky"),
                cx.span("risky", self._some(2)),
            ):
                self._goes_by()
                raise error
            self.ledger.count(
                "crucible_stage_duration_seconds_count",
                crucible_workflow_name=workflow,
                crucible_stage_name=name,
                crucible_result=result,
                error_type=kind,
            )

    # -- acts: training ----------------------------------------------------------------------------------------------

    def _epochs(self) -> None:
        """Train in loops, with evaluations, checkpoints and pauses in the middle of steps."""
        model, accumulate = self._random.choice(MODELS), self._random.choice([1, 1, 3])
        config = {"rate": 1e-3, "schichten": [64, 32, 10], "nested": {"ü": None}}
        with (
            self._at(f"train {model}"),
            cx.train(model, total_steps=20, total_epochs=2, start_step=7, config=config, **self._some(3)) as run,
        ):
            for epoch in run.epochs():
                with self._at("train_epoch"):
                    self._steps(run, model, accumulate)
                    self._evaluate(run, model)
                    loss = self._random.choice(LOSSES)
                    epoch.log(loss=loss, accuracy=0.25 * epoch, learning_rate=1e-3, metrics={"deep": {"er": 1}})
                    self.ledger.gauge("crucible_training_epoch_loss", loss, crucible_model_name=model)
                self.ledger.count("crucible_training_epochs_total", crucible_model_name=model)
                self.ledger.events["crucible.training.epoch.stop"] += 1

    def _steps(self, run: Run, model: str, accumulate: int) -> None:
        sizes = [self._random.randrange(1, 40) for _ in range(self._random.randrange(1, 9))]

        def loader() -> Iterator[list[int]]:
            for size in sizes:
                self._goes_by(0.01)
                yield [0] * size

        took_s, samples = 0.0, 0
        for number, (batch, step) in enumerate(run.steps(loader(), accumulate=accumulate), start=1):
            took_s, samples = took_s + self._goes_by(), samples + len(batch)
            if self._random.random() < 0.2:
                self._checkpoint(run, model)
                with run.pause():
                    self._goes_by()
            if accumulate == 1 and self._random.random() < 0.2:
                step.log(loss=0.5)
                step.skip("overflow")
                self.ledger.count(
                    "crucible_training_skipped_steps_total",
                    crucible_model_name=model,
                    crucible_training_skip_reason="overflow",
                )
                took_s = samples = 0
                continue
            self._log(step.log, model)
            if number % accumulate == 0 or number == len(sizes):
                self._made(model, took_s, samples)
                took_s = samples = 0

    def _log(self, log: Callable[..., None], model: str, **further: Any) -> None:
        """Log a step, or a part of one: of what is no sum the last value counts."""
        loss, tokens = self._random.choice(LOSSES), self._random.choice([1, 2**40])
        log(
            loss=loss,
            learning_rate=1e-3,
            gradient_norm=self._random.choice([1.5, math.inf]),
            tokens=tokens,
            metrics=self._random.choice([None, {"perplexity": 12.5}]),
            **further,
        )
        self.ledger.count("crucible_training_tokens_total", tokens, crucible_model_name=model)
        self.ledger.gauge("crucible_training_loss", loss, crucible_model_name=model)

    def _made(self, model: str, took_s: float, samples: int) -> None:
        self.ledger.step_durations_s[model].append(took_s)
        for metric, amount in (("steps_total", 1), ("step_duration_seconds_count", 1), ("samples_total", samples)):
            self.ledger.count(f"crucible_training_{metric}", amount, crucible_model_name=model)

    def _evaluate(self, run: Run, model: str) -> None:
        split, accuracy = self._random.choice(["validation", "prüfung"]), self._random.random()
        with self._at(f"evaluate {split}"), run.evaluate(split, **self._some(1)) as evaluation:
            for _ in evaluation.batches([1, 2]):
                self._goes_by()
            evaluation.log({"nested": {"f1": -1.5}}, accuracy=accuracy, loss=self._random.choice(LOSSES))
        self._evaluated(model, split, accuracy)

    def _evaluated(self, model: str, split: str, accuracy: float) -> None:
        labels = {"crucible_model_name": model, "crucible_training_split": split}
        self.ledger.count("crucible_training_evaluations_total", **labels)
        self.ledger.gauge("crucible_training_evaluation_metric", accuracy, **labels, crucible_metric_name="accuracy")

    def _checkpoint(self, run: Run, model: str) -> None:
        path = self._folder / f"{self._new('ü')}.bin"
        with self._at("save_checkpoint"), run.checkpoint(path.name, path=path, **self._some(1)):
            path.write_bytes(b"x" * self._random.randrange(100_000))
            self._goes_by()
        self.ledger.count("crucible_training_checkpoints_total", crucible_model_name=model)
        self.ledger.count("crucible_checkpoint_size_bytes_count", crucible_model_name=model)

    def _by_hand(self) -> None:
        """Train as callbacks and notebooks do, and end by an error told in words."""
        model = self._random.choice(MODELS)
        with self._at(f"train {model}"):
            run = cx.train(model, loss_scaling=True).start()
            assert cx.current_run() is run
            with self._at("train_epoch"), run.epoch(5) as epoch:
                for _ in range(3):
                    self._log(run.step, model, samples=3)
                    self._made(model, 0.0, 3)
                    took_s = self._goes_by()
                    self._log(run.step, model, samples=4)
                    self._made(model, took_s, 4)
                    run.evaluation({"accuracy": 0.75, "loss": {"ü": math.nan}}, split="test", step=2**40)
                    self._evaluated(model, "test", 0.75)
                epoch.log(loss=1)
                self.ledger.gauge("crucible_training_epoch_loss", 1, crucible_model_name=model)
            self.ledger.count("crucible_training_epochs_total", crucible_model_name=model)
            self.ledger.events["crucible.training.epoch.stop"] += 1
            error = self._random.choice([None, "kaputt ü", Broken("told by hand")])
            run.finish(error=error, final_loss=self._random.choice(LOSSES))

    def _points(self) -> None:
        """Report steps that come again, go back or were not made, and checkpoints and evaluations made elsewhere."""
        with self._at(f"train {MERGED}"), cx.train(MERGED) as run:
            for number in (1, 2, 2, 3, 1, 2):  # 2 comes again and adds what was missing; then it goes back to 1
                self._goes_by()
                run.step(step=number, loss=0.25 * number, samples=2)
            run.skip("nan ü", step=3)
            run.checkpoint_saved("point ü", path=Path("/x/ü"), size_bytes=2**53 + 1, duration_s=0.123456789)
            run.checkpoint_saved("point", step=4)
        with self._at(f"train {MERGED}", "save_checkpoint"):
            pass
        for metric, amount in (("steps", 5), ("rewinds", 1), ("checkpoints", 2)):
            self.ledger.count(f"crucible_training_{metric}_total", amount, crucible_model_name=MERGED)
        self.ledger.gauge("crucible_training_step_current", 2, crucible_model_name=MERGED)

    # -- acts: everything else ---------------------------------------------------------------------------------------

    def _datasets(self) -> None:
        name, size = self._random.choice(["wikitext", "Straße/ü"]), 2**53 + 1 + 2 * self._random.randrange(99)
        with self._at(f"load_dataset {name}"):
            cx.dataset.load(name, size=size, size_bytes=2**53 + 1, duration_s=0.1 + 1e-9, **self._some())
        cx.dataset.load(name, size=size)
        self.ledger.gauge("crucible_dataset_size", size, crucible_dataset_name=name)
        self.ledger.count(
            "crucible_dataset_io_bytes_total", 2**53 + 1, crucible_dataset_name=name, crucible_io_direction="read"
        )
        for index in (None, 1, 2**40):
            records = self._random.randrange(1, 5_000)
            cx.dataset.batch(records, dataset=name, wait_s=self._random.random(), index=index)
            self.ledger.count("crucible_dataset_batches_total", crucible_dataset_name=name)
            self.ledger.count("crucible_dataset_records_total", records, crucible_dataset_name=name)
        self.ledger.events["crucible.dataset.load"] += 2

    def _own_spans(self) -> None:
        with self._at("own"), cx.span(("own",), VALUES) as span:
            span.set(**self._some(2))
            self._random.choice([span.skip, span.fail])("so ü")
            with self._at("called"):
                cx.span("called", {"ü.key": 1}, lambda: self._goes_by())
        with self._at("by hand"):
            ref = cx.start_span("by hand", self._some())
            self._goes_by()
            thread = threading.Thread(target=cx.end_span, args=(ref, self._some(2)))
            thread.start()
            thread.join()
        with self._at("by hand, failed"):
            cx.end_span(cx.start_span("by hand, failed"), {"result": "timeout"})
            self.ledger.paths["/".join(_path.get())] += 1
            cx.end_span(
                cx.start_span("by hand, failed"), error=Broken("ü") if self._random.random() < 0.5 else "in words"
            )
        with self._at("never ended"):
            cx.start_span("never ended", self._some(2))

    def _of_the_application(self) -> None:
        """Use OpenTelemetry itself inside our spans: events, links and status of the application's own."""
        tracer = trace.get_tracer(
            "app.library", "1.2.3", schema_url="https://example.org/schema", attributes={"scope.ü": 1, "list": [1, 2]}
        )
        values = {key: value for key, value in VALUES.items() if isinstance(value, (str, int, float, bool))}
        values["beyond_64_bits"] = "none in OpenTelemetry"
        elsewhere = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1), trace_state=_REMOTE)
        with self._at("ours"), cx.span("ours"):
            span = trace.get_current_span()
            span.add_event("zuerst ü", values, timestamp=self._clock.time_ns() + 1)
            span.add_event("afterwards", timestamp=self._clock.time_ns() + 2)
            span.add_link(elsewhere, {"why": "remote ü", "ints": [1, 2**63 - 1]})
            span.add_link(span.get_span_context())
            for kind in SpanKind:
                theirs = f"theirs {kind.name}"
                links = [Link(span.get_span_context(), {"n": 1}), Link(elsewhere)]
                with self._at(theirs), tracer.start_as_current_span(theirs, kind=kind, links=links) as other:
                    other.set_attributes({**values, "ints": [1, 2], "texts": ["ü", ""]})
                    with self._at("run_stage in theirs"), cx.stage("in theirs"):
                        self._goes_by()
                    other.set_status(Status(StatusCode.OK) if kind.value % 2 else Status(StatusCode.ERROR, "weil ü"))

    def _remote_parent(self) -> None:
        """Go on with a trace that began in another process."""
        parent = SpanContext(
            self._random.getrandbits(128),
            self._random.getrandbits(64),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
            trace_state=_REMOTE,
        )
        outer, token = _path.set(()), otel_context.attach(trace.set_span_in_context(NonRecordingSpan(parent)))
        try:
            with self._at("run_stage far away"), cx.stage("far away"), self._at("run_stage below"), cx.stage("below"):
                self._goes_by()
        finally:
            otel_context.detach(token)
            _path.reset(outer)

    def _emitted(self) -> None:
        for number in range(1, 4):
            cx.emit_step({"loss": 0.5, "lr": 1e-3, "grad_norm": 1.5}, {"step": number, "model": BY_NAME})
        cx.emit_epoch({"epoch_loss": -2.5}, {"epoch": 1, "total_epochs": 2, "model": BY_NAME})
        cx.emit_checkpoint({"size_bytes": 1_000}, {"checkpoint_name": "ü", "path": "/x", "model": BY_NAME})
        cx.emit_evaluation({"metrics": {"accuracy": 0.5}}, {"split": "test", "step": 3, "model": BY_NAME})
        cx.emit_dataset_batch({"batch_size": 32}, {"batch_idx": 1, "dataset": BY_NAME})
        with self._at(f"load_dataset {BY_NAME}"):
            cx.emit_dataset_load({"size": 10, "duration": 987_654_321}, {"dataset": BY_NAME})
        cx.execute("my.own.event", {"measured": 1.5, "nan": math.nan, "big": 2**63 - 1}, dict(VALUES))
        cx.execute(("another", "one"))
        for metric, amount in (("steps", 3), ("epochs", 1), ("checkpoints", 1)):
            self.ledger.count(f"crucible_training_{metric}_total", amount, crucible_model_name=BY_NAME)
        self.ledger.gauge("crucible_training_epoch_loss", -2.5, crucible_model_name=BY_NAME)
        self.ledger.count("crucible_dataset_batches_total", crucible_dataset_name=BY_NAME)
        self._evaluated(BY_NAME, "test", 0.5)
        self.ledger.events.update(["crucible.training.epoch", "crucible.dataset.load", "my.own.event", "another.one"])

    def _aliases(self) -> None:
        """Speak the seeds' languages: starts, ends, failures, and an end of whose start nothing is known."""
        name = self._new("alias")
        with self._at(f"run_workflow {name}"):
            cx.execute("crucible_kitchen.workflow.run.start", {}, {"workflow": name, "run_id": "r ü"})
            with self._at("run_stage good"):
                cx.execute("crucible_kitchen.stage.run.start", {}, {"stage": "good", "module": "m"})
                self._goes_by()
                cx.execute("crucible_kitchen.stage.run.stop", {}, {"stage": "good", "success": True})
            with self._at("run_stage bad"):
                cx.execute(("crucible_framework", "stage", "start"), {}, {"stage_name": "bad", "stage_index": 1})
                cx.execute("crucible_framework.stage.exception", {"duration": 12_345}, {"error": "text ü"})
            with self._at("train seed"):
                cx.execute("crucible_train.training.start", {}, {"model_name": "seed", "config": {"a": 1}})
                with self._at("train_epoch"):
                    cx.execute("crucible_train.epoch.start", {}, {"epoch": 1})
                    cx.execute(
                        "crucible_train.batch.stop", {"loss": 0.5, "gradient_norm": 2.0}, {"epoch": 1, "batch": 1}
                    )
                    cx.execute("crucible_train.epoch.stop", {"loss": 0.5, "accuracy": 0.5}, {"epoch": 1})
                cx.execute("crucible_train.training.exception", {}, {"error": Broken("seed ü")})
            with self._at("run_stage orphan"):
                cx.execute("crucible_kitchen.stage.run.stop", {"duration": 1_234_567_891}, {"stage": "orphan"})
            cx.execute("crucible_kitchen.workflow.run.stop", {}, {"workflow": name, "run_id": "r ü"})
        self.ledger.count("crucible_training_steps_total", crucible_model_name="seed")
        self.ledger.count("crucible_training_epochs_total", crucible_model_name="seed")
        self.ledger.events.update(["crucible.workflow.start", "crucible.training.epoch.stop"])
