"""What Grafana is provisioned with; PromQL itself is checked by Prometheus, in the end-to-end tests."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from crucible_otel.semconv import registry
from crucible_otel.semconv.prometheus import label_name, sample_names
from tests.config_files.files import CONFIG, load, walk

GRAFANA: Final = CONFIG / "compose" / "grafana"
DASHBOARD: Final[dict[str, Any]] = json.loads((GRAFANA / "dashboards" / "training.json").read_text("utf-8"))
SOURCES: Final = {
    each["uid"]: each for each in load(GRAFANA / "provisioning" / "datasources" / "backends.yaml")["datasources"]
}


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each panel's title and PromQL, with Grafana's variables filled in."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield (
                panel["title"],
                target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*").replace("$model", ".*"),
            )


def queries() -> list[str]:
    """Return all PromQL, that of the variables too."""
    asked = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"]]
    return [expression for _, expression in expressions()] + asked


def test_data_sources_are_known_wherever_they_are_named() -> None:
    """In panels, variables and the links from exemplars."""
    named = {value["uid"] for path, value in walk(DASHBOARD) if path[-1:] == ("datasource",)}
    assert {"prometheus"} == named
    links = SOURCES["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert {"tempo", "jaeger"} == {link["datasourceUid"] for link in links}
    assert {"trace_id"} == {link["name"] for link in links}
    assert {"prometheus", "tempo", "jaeger"} == set(SOURCES) == {each["type"] for each in SOURCES.values()}


def test_panels_can_be_told_apart_and_do_not_overlap() -> None:
    """Ids, titles and places."""
    panels = DASHBOARD["panels"]
    for key in ("id", "title"):
        assert {1} == set(Counter(panel[key] for panel in panels).values())
    fields = Counter(
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert {1} == set(fields.values())
    assert max(x for x, _ in fields) < 24


def test_every_metric_is_one_of_ours() -> None:
    """By the names that samples have in Prometheus, whichever way they took."""
    known = {sample for metric in registry.METRICS.values() for sample in sample_names(metric)}
    labels = {label_name(key) for metric in registry.METRICS.values() for key in metric.attributes}
    used = {word for query in queries() for word in re.findall(r"\bcrucible_\w+", query)}
    assert set() == used - known - labels
    assert {
        "crucible_training_steps_total",
        "crucible_training_loss",
        "crucible_training_step_duration_seconds_bucket",
        "crucible_training_tokens_total",
        "crucible_training_learning_rate",
        "crucible_training_gradient_norm",
    } <= used


def test_labels_are_those_of_their_metric() -> None:
    """A selector or a `by` with a label that the metric does not have gives nothing."""
    per_sample = {
        sample: {label_name(key) for key in metric.attributes} | {"job", "instance", "le"}
        for metric in registry.METRICS.values()
        for sample in sample_names(metric)
    }
    for _, expression in expressions():
        words = re.findall(r"\bcrucible_\w+", expression)
        allowed = set.union(*(per_sample[word] for word in words if word in per_sample))
        groups = {label.strip() for group in re.findall(r"by \((.*?)\)", expression) for label in group.split(",")}
        selected = {label for group in re.findall(r"\{(.*?)\}", expression) for label in re.findall(r"(\w+)=", group)}
        assert set() == (groups | selected) - allowed, expression


def test_the_dashboard_is_provisioned_where_it_is_mounted() -> None:
    """And it is the first thing that is seen."""
    grafana = load(CONFIG / "docker-compose.yaml")["services"]["grafana"]
    (provider,) = load(GRAFANA / "provisioning" / "dashboards" / "folder.yaml")["providers"]
    folder = provider["options"]["path"]
    assert f"./compose/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    assert f"{folder}/training.json" == grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
