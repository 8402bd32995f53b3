"""The registry of events."""

from __future__ import annotations

import pytest

import crucible_otel as cx
from crucible_otel.semconv.registry import ALIASES, EVENTS


def test_the_twelve_events_of_the_kitchen() -> None:
    """As the guide lists them."""
    assert [
        "workflow.run.start", "workflow.run.stop", "workflow.run.exception",
        "stage.run.start", "stage.run.stop", "stage.run.exception",
        "training.step", "training.epoch", "training.checkpoint", "training.eval",
        "dataset.load", "dataset.batch",
    ] == [name.removeprefix("crucible_kitchen.") for name in cx.events.events()]  # fmt: skip


def test_the_standard_events_by_family() -> None:
    """As the README of CrucibleTelemetry lists them, failures that were added to them apart."""
    training = ["training.start", "training.stop", "epoch.start", "epoch.stop", "batch.stop", "checkpoint.saved"]
    framework = ["pipeline.start", "pipeline.stop", "stage.start", "stage.stop"]
    assert tuple(f"crucible_train.{name}" for name in training) == cx.events.training_events()
    assert tuple(f"crucible_framework.{name}" for name in framework) == cx.events.framework_events()
    deployment = ["inference.start", "inference.stop", "inference.exception"]
    assert tuple(f"crucible_deployment.{name}" for name in deployment) == cx.events.deployment_events()
    families = (cx.events.training_events(), cx.events.deployment_events(), cx.events.framework_events())
    assert tuple(name for family in families for name in family) == cx.events.standard_events()


def test_the_categories_hold_the_families() -> None:
    """Each family under its category, and every event of a seed in one; failures that were added to them apart."""
    found = cx.events.events_by_category()
    assert {"kitchen", "training", "deployment", "framework", "snakepit", "tinkex"} == {*found}
    assert (
        cx.events.events(),
        cx.events.training_events(),
        cx.events.deployment_events(),
        cx.events.framework_events(),
    ) == tuple(found[name] for name in ("kitchen", "training", "deployment", "framework"))
    listed = [name for names in found.values() for name in names]
    assert len(listed) == len({*listed})
    assert ["crucible_framework.exception", "crucible_train.exception"] == sorted(
        {f"{name.partition('.')[0]}.{name.rpartition('.')[2]}" for name in {*ALIASES} - {*listed}}
    )


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("snakepit.gpu.memory.sampled", "snakepit"),
        ("snakepit.call.stop", "snakepit"),
        ("tinkex.future.poll.start", "tinkex"),
        ("crucible_deployment.inference.start", "deployment"),
        ("crucible_kitchen.training.step", "kitchen"),
        ("crucible_train.epoch.exception", "training"),
    ],
)
def test_an_event_of_a_seed_says_its_category(name: str, category: str) -> None:
    """The one under which it is listed."""
    info = cx.events.event_info(name)
    assert info is not None
    assert category == info["category"]


def test_an_event_of_a_seed_is_described_in_its_words() -> None:
    """Category and description of the README, measurements with units, metadata, and our name of it."""
    assert {
        "category": "training",
        "description": "Epoch completed with metrics",
        "canonical": "crucible.training.epoch.stop",
        "measurements": {"duration": "ns", "loss": "", "accuracy": ""},
        "metadata": ("epoch", "learning_rate"),
    } == cx.events.event_info(("crucible_train", "epoch", "stop"))


def test_an_event_of_ours_is_described() -> None:
    """With the names of its fields."""
    info = cx.events.event_info("crucible.dataset.batch")
    assert info is not None
    assert ("dataset", "Batch processed.", {"batch_size": "{record}", "wait_time": "ns"}) == (
        info["category"],
        info["description"],
        info["measurements"],
    )


def test_an_unknown_event_has_no_description() -> None:
    """None, for a name that nobody has."""
    assert cx.events.event_info("nobody.knows") is None


@pytest.mark.parametrize("name", cx.events.all_events())
def test_every_event_is_described(name: str) -> None:
    """All names that are known, ours and the seeds'."""
    info = cx.events.event_info(name)
    assert info is not None
    assert info["description"]
    assert info["canonical"] in EVENTS


def test_all_events_are_ours_and_the_seeds() -> None:
    """Ours first."""
    assert (*EVENTS, *ALIASES) == cx.events.all_events()
    assert tuple(EVENTS) == cx.events.canonical_events()
