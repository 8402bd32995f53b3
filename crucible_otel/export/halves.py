"""Cutting a batch in two, when it is too large for the one who is to take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from opentelemetry.sdk.metrics.export import MetricsData

__all__ = ["all_points", "count_points", "halves", "halves_of_metrics"]

Item = TypeVar("Item")


def halves(batch: Sequence[Item]) -> tuple[Sequence[Item], ...]:
    """Return the two halves of a batch; a single item cannot be cut."""
    middle = len(batch) // 2
    return (batch[:middle], batch[middle:]) if middle else (batch,)


def all_points(collection: MetricsData) -> list[Any]:
    """Return the data points of a collection."""
    return [
        point
        for resource in collection.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    ]


def count_points(collection: MetricsData) -> int:
    """Return the number of data points in a collection."""
    return sum(
        len(metric.data.data_points)
        for resource in collection.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def halves_of_metrics(collection: MetricsData) -> tuple[MetricsData, ...]:
    """Return a collection as two, with half of the data points each; a single point cannot be cut."""
    points = count_points(collection)
    if points < 2:
        return (collection,)
    middle = points // 2
    return _slice(collection, 0, middle), _slice(collection, middle, points)


def _slice(collection: MetricsData, start: int, stop: int) -> MetricsData:
    """Return the points from start to stop, with what they belong to."""
    at = 0
    resources = []
    for resource in collection.resource_metrics:
        scopes = []
        for scope in resource.scope_metrics:
            metrics = []
            for metric in scope.metrics:
                data: Any = metric.data
                points: Sequence[Any] = data.data_points
                kept = points[max(0, start - at) : max(0, stop - at)]
                at += len(points)
                if kept:
                    metrics.append(replace(metric, data=replace(data, data_points=kept)))
            if metrics:
                scopes.append(replace(scope, metrics=metrics))
        if scopes:
            resources.append(replace(resource, scope_metrics=scopes))
    return MetricsData(resources)
