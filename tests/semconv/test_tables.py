"""The tables themselves: complete, consistent, and named as OpenTelemetry asks."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv._incubating.metrics.hw_metrics as official_hardware
import opentelemetry.semconv._incubating.metrics.otel_metrics as official_sdk
import opentelemetry.semconv.attributes as stable
import pytest
from opentelemetry.semconv.schemas import Schemas

from crucible_otel.semconv import names, sdk
from crucible_otel.semconv.aliases import ALIASES as ALL_ALIASES
from crucible_otel.semconv.aliases import SYNONYMS, VALUES_IN
from crucible_otel.semconv.attributes import ATTRIBUTES as DECLARED
from crucible_otel.semconv.attributes import RESULTS
from crucible_otel.semconv.model import Alias, Attribute, Event, Feed, Metric
from crucible_otel.semconv.registry import ALIASES, ATTRIBUTES, EVENTS, METRICS, OPERATIONS
from tests.versions import SCHEMA_1_44_IS_LISTED

DOTTED = re.compile(r"crucible(\.[a-z][a-z0-9]*(_[a-z0-9]+)*)+")
PLACE = re.compile(r"\{(\w+)\}")
FEEDS = [(event, feed) for event in EVENTS.values() for feed in event.feeds]

# Words that OpenTelemetry keeps out of names because the unit or the kind says them.
UNSPOKEN = {"total", "seconds", "second", "ms", "bytes", "ratio", "count", "counter", "histogram", "gauge"}

# Last words of counters that say what became of things, as OpenTelemetry's own ``otel.sdk.*.exported`` does.
PARTICIPLES = {"dropped", "nonfinite"}

# The metrics whose names and units we choose; the others are OpenTelemetry's own.
OURS = {name: metric for name, metric in METRICS.items() if name.startswith("crucible.")}

# What the seeds document: alias -> measurements, metadata.
SEEDS = {
    "crucible_kitchen.workflow.run.start": ("", "workflow run_id"),
    "crucible_kitchen.workflow.run.stop": ("duration", "workflow run_id"),
    "crucible_kitchen.workflow.run.exception": ("duration", "workflow run_id error"),
    "crucible_kitchen.stage.run.start": ("", "stage module"),
    "crucible_kitchen.stage.run.stop": ("duration", "stage module success"),
    "crucible_kitchen.stage.run.exception": ("duration", "stage module error"),
    "crucible_kitchen.training.step": ("loss lr grad_norm", "step total_steps"),
    "crucible_kitchen.training.epoch": ("epoch_loss", "epoch total_epochs"),
    "crucible_kitchen.training.checkpoint": ("size_bytes", "checkpoint_name path"),
    "crucible_kitchen.training.eval": ("metrics", "split step"),
    "crucible_kitchen.dataset.load": ("size duration", "name"),
    "crucible_kitchen.dataset.batch": ("batch_size", "batch_idx"),
    "crucible_train.training.start": ("", ""),
    "crucible_train.training.stop": ("", ""),
    "crucible_train.epoch.start": ("", "epoch"),
    "crucible_train.epoch.stop": ("loss accuracy", "epoch learning_rate"),
    "crucible_train.batch.stop": ("loss gradient_norm", "epoch batch"),
    "crucible_train.checkpoint.saved": ("", "epoch checkpoint_path"),
    "crucible_framework.pipeline.start": ("", "pipeline_id"),
    "crucible_framework.pipeline.stop": ("", "pipeline_id"),
    "crucible_framework.stage.start": ("", "stage_name stage_index"),
    "crucible_framework.stage.stop": ("", "stage_name stage_index"),
    "snakepit.gpu.memory.sampled": ("used_mb total_mb", "device"),
    "snakepit.gpu.utilization.sampled": ("gpu_percent memory_percent", "device"),
    "snakepit.gpu.temperature.sampled": ("celsius", "device"),
    "snakepit.gpu.power.sampled": ("watts limit_watts", "device"),
    "snakepit.memory.gpu": ("allocated_mb reserved_mb free_mb total_mb", "device"),
    "crucible_deployment.inference.start": ("", "model_name model_version"),
    "crucible_deployment.inference.stop": ("input_size output_size batch_size", ""),
    "snakepit.call.start": ("", "operation library function worker_id device"),
    "snakepit.call.stop": (
        "duration queue_time serialize_time python_time deserialize_time",
        "operation library function result error_type",
    ),
    "snakepit.call.exception": ("duration", "operation kind reason stacktrace"),
    "snakepit.ml.inference": ("duration batch_size tokens_per_second", "model device"),
    "snakepit.pool.checkout": ("queue_time", "pool worker_id"),
    "snakepit.pool.checkin": ("busy_time", "pool worker_id"),
    "snakepit.pool.size": ("size idle busy", "pool"),
    "snakepit.memory.allocate": ("bytes", "type device"),
    "snakepit.memory.release": ("bytes", "type device"),
    "snakepit.serialize.stop": ("duration bytes", "direction format"),
    "snakepit.ml.tensor_op": (
        "duration input_elements output_elements",
        "op input_shapes output_shape dtype device",
    ),
    "snakepit.ml.train_step": ("duration loss learning_rate", "epoch step model"),
    "tinkex.future.poll.start": ("", ""),
    "tinkex.future.poll.stop": ("iterations", "status"),
    "tinkex.future.poll.exception": ("", ""),
}


def all_metrics() -> Iterator[Metric]:
    """Yield every metric wherever it stands, those fed by several events as often."""
    yield from (feed.metric for _, feed in FEEDS)
    yield from METRICS.values()


def fields_of(event: Event) -> dict[str, str]:
    """Return field name -> attribute."""
    return {field.name: field.attribute for field in event.fields}


# -- metrics ---------------------------------------------------------------------------------------------------------


def test_metric_names_are_unique() -> None:
    """Two metrics of one name are one metric."""
    assert [] == [metric.name for metric in all_metrics() if METRICS[metric.name] != metric]


@pytest.mark.parametrize("metric", OURS.values(), ids=OURS)
def test_metric_is_named_by_the_rules(metric: Metric) -> None:
    """Lower case, dots between words, no unit and no type in the name; counters of things are plural."""
    words = re.split(r"[._]", metric.name)

    assert DOTTED.fullmatch(metric.name)
    assert not UNSPOKEN & set(words)
    assert metric.brief.endswith(".")
    assert re.fullmatch(r"s|By|1|Hz|W|J|\{[a-z]+\}(/s)?|", metric.unit)
    if metric.kind == "counter" and metric.unit.startswith("{"):
        assert words[-1].endswith("s") or words[-1] in PARTICIPLES
    if metric.kind == "updowncounter":
        assert not words[-1].endswith("s")
    if words[-1] == "duration" or words[-2:] == ["wait", "time"]:
        assert ("histogram", "s") == (metric.kind, metric.unit)


def test_metric_names_are_no_namespaces() -> None:
    """No metric's name begins another's."""
    assert [] == [(a, b) for a in OURS for b in METRICS if b.startswith(f"{a}.")]


def test_other_metrics_are_those_of_the_installed_conventions() -> None:
    """What is not ours is OpenTelemetry's, under its name."""
    theirs = {
        value
        for module in (official_hardware, official_sdk)
        for key, value in vars(module).items()
        if key.isupper() and type(value) is str
    }

    assert [] == [name for name in METRICS if name not in OURS and name not in theirs]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metric_attributes_are_declared(metric: Metric) -> None:
    """Each is in the attribute tables, as one that metrics may have, and stands once."""
    undeclared = [name for name in metric.attributes if name not in ATTRIBUTES or "metric" not in ATTRIBUTES[name].on]

    assert [] == undeclared
    assert len(metric.attributes) == len(set(metric.attributes))


# One a handler, or one a device of the host.
MAY_BE_IDS = {"crucible.sdk.handler.id", "hw.id"}

# One series a run, on purpose: the gauge that joins the workflow's name with its run id.
MAY_NAME_A_RUN = "crucible.workflow.run.info"


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metric_attributes_are_few_valued(metric: Metric) -> None:
    """Never a run, step, epoch, batch, path or message."""
    unbounded = re.compile(r".*\.(id|step|epoch|batch|index|path|message|tags|config)")
    found = [name for name in metric.attributes if unbounded.fullmatch(name) and name not in MAY_BE_IDS]

    assert (["crucible.workflow.run.id"] if metric.name == MAY_NAME_A_RUN else []) == found


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_buckets_are_ascending_floats_of_histograms(metric: Metric) -> None:
    """An integer bound would be scraped as ``le="1"``; only histograms have bounds, and all of them have."""
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert {float} >= {type(bound) for bound in metric.buckets}
    assert all(lower < upper for lower, upper in pairwise(metric.buckets))


# -- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "feed"), FEEDS, ids=[f"{event.name}:{feed.field}>{feed.metric.name}" for event, feed in FEEDS]
)
def test_feed_takes_what_the_event_has(event: Event, feed: Feed) -> None:
    """Its field is a field of the event, of a kind that the instrument takes; so are the metric's attributes."""
    fields = {field.name: field for field in event.fields}
    attributes = {*fields_of(event).values(), *feed.constants, feed.each, names.ERROR_TYPE}
    kinds = {
        "count": {"counter"},
        "rewind": {"counter"},
        "sum": {"counter"},
        "record": {"histogram"},
        "set": {"gauge", "updowncounter"},
        "add": {"updowncounter"},
        "take": {"updowncounter"},
        "on": {"gauge"},
        "off": {"gauge"},
        "up": {"updowncounter"},
        "down": {"updowncounter"},
    }

    assert feed.metric.kind in kinds[feed.how]
    assert bool(feed.field) == (feed.how in ("sum", "record", "set", "add", "take", "rewind"))
    assert not feed.field or feed.field in fields
    assert not feed.field or bool(feed.each) == (fields[feed.field].type == "map")
    assert [] == [name for name in feed.metric.attributes if name not in attributes]
    if feed.how == "record":
        assert {"ns": 1e-9}.get(fields[feed.field].unit, 1.0) == feed.scale


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_event_fields_are_well_formed(event: Event) -> None:
    """Field names stand once, measurements are numbers, and what a hot event names are fields of it."""
    fields = {field.name: field for field in event.fields}

    assert len(event.fields) == len(fields)
    assert DOTTED.fullmatch(event.name)
    assert {"int", "double", "map"} >= {field.type for field in event.fields if field.measurement}
    assert [] == [name for name in (*event.graphs, event.sequence) if name and name not in fields]
    assert [] == [field.name for field in event.fields if not field.brief]


def test_every_operation_has_its_three_events() -> None:
    """``.start``, ``.stop`` and ``.exception``; the places in the span's name are fields of the start."""
    for operation in OPERATIONS.values():
        ends = (operation.start, operation.stop, operation.exception)

        assert [f"{operation.name}.{end}" for end in ("start", "stop", "exception")] == [each.name for each in ends]
        assert ["start", "stop", "exception"] == [each.role for each in ends]
        assert set(PLACE.findall(operation.span)) <= set(fields_of(operation.start))
        assert set(fields_of(operation.start)) <= set(fields_of(operation.stop))


# -- attributes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attribute", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_attribute_is_named_by_the_rules(attribute: Attribute) -> None:
    """Ours are below ``crucible.``; others are OpenTelemetry's own."""
    assert DOTTED.fullmatch(attribute.name) or attribute.name in official().values()
    assert attribute.brief.endswith(".")
    assert {"resource", "span", "metric", "event"} >= set(attribute.on) > set()


def test_attribute_names_are_no_namespaces() -> None:
    """No attribute's name begins another's."""
    assert set() == {a for a in ATTRIBUTES for b in ATTRIBUTES if b.startswith(f"{a}.")}


def test_attributes_have_one_type() -> None:
    """Fields of different events that become one attribute have one type."""
    types: dict[str, set[str]] = {attribute.name: {attribute.type} for attribute in DECLARED}
    for event in EVENTS.values():
        for field in event.fields:
            if field.attribute:
                types.setdefault(field.attribute, set()).add("string" if field.type == "map" else field.type)

    assert {} == {name: found for name, found in types.items() if len(found) > 1}


# -- aliases ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEEDS)
def test_alias_has_the_fields_of_its_seed(name: str) -> None:
    """Each documented field, where the seed has it."""
    measurements, metadata = (set(fields.split()) for fields in SEEDS[name])

    assert measurements <= set(ALIASES[name].measurements)
    assert metadata <= set(ALIASES[name].metadata)


@pytest.mark.parametrize("alias", ALL_ALIASES, ids=[alias.name for alias in ALL_ALIASES])
def test_alias_maps_onto_what_exists(alias: Alias) -> None:
    """Its targets are events, and every field it maps is a field of each of them."""
    assert alias.targets
    assert [] == [name for name in alias.targets if name not in EVENTS]
    assert [] == [
        (target, field)
        for target in alias.targets
        for field in alias.fields.values()
        if field not in fields_of(EVENTS[target])
    ]
    assert set(alias.fields) == {*alias.measurements, *alias.metadata}
    assert len(alias.fields) == len(set(alias.fields.values()))


def test_alias_names_are_unique() -> None:
    """Among themselves and with ours."""
    assert len(ALL_ALIASES) == len(ALIASES)
    assert set() == set(ALIASES) & set(EVENTS)


def test_every_alias_start_has_both_ends() -> None:
    """So that a failure never leaves an open span."""
    missing = [
        f"{name.removesuffix('.start')}.{end}"
        for name in ALIASES
        if name.endswith(".start")
        for end in ("stop", "exception")
        if f"{name.removesuffix('.start')}.{end}" not in ALIASES
    ]
    assert [] == missing


def test_synonyms_and_values_lead_to_ours() -> None:
    """A synonym is no field of its own, and means one; values end in the closed set of results."""
    fields = {name for event in EVENTS.values() for name in fields_of(event)}

    assert [] == [(given, field) for given, field in SYNONYMS.items() if given in fields or field not in fields]
    assert set(RESULTS) == set(VALUES_IN["result"].values())


# -- OpenTelemetry's own names ---------------------------------------------------------------------------------------


def official() -> dict[str, str]:
    """Return the constants of the installed conventions, the stable ones over those in the making."""
    found: dict[str, str] = {}
    for package in (incubating, stable):
        for module in modules(package):
            found.update({key: value for key, value in vars(module).items() if key.isupper() and type(value) is str})
    return found


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Import the modules of a package."""
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def test_constants_are_those_of_the_installed_conventions() -> None:
    """A name that OpenTelemetry has too has the same value, and what is not ours is one of its."""
    ours = {key: value for key, value in vars(names).items() if key.isupper()}
    theirs = official()
    no_attributes = {"SCOPE_NAME", "SCHEMA_URL", "EXCEPTION_EVENT", "OVERFLOW"}

    assert {} == {key: value for key, value in ours.items() if key in theirs and theirs[key] != value}
    assert [] == [
        value
        for key, value in ours.items()
        if not value.startswith("crucible.") and key not in no_attributes and value not in theirs.values()
    ]


def test_schema_url_is_that_of_a_published_schema() -> None:
    """Otherwise no backend could look it up."""
    assert SCHEMA_1_44_IS_LISTED == (names.SCHEMA_URL in {schema.value for schema in Schemas})


def test_constants_of_ours_are_declared() -> None:
    """Every ``crucible.`` constant is an attribute of the tables."""
    ours = [value for key, value in vars(names).items() if key.isupper() and value.startswith("crucible.")]

    assert [] == [name for name in ours if name not in ATTRIBUTES]


def test_the_anchor_is_no_metric() -> None:
    """It only keeps the SDK collecting."""
    assert sdk.ANCHOR not in METRICS
