"""How the SDK calls a reader: this file fails on an SDK in which we can no longer stand between them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource

from crucible_otel.export import binding as module
from crucible_otel.export.binding import Binding, bind, has_ended

RESOURCE = Resource({"service.name": "application"})
EMPTY = MetricsData([])


def application(*readers: MetricReader, **options: Any) -> MeterProvider:
    """Return an application's provider."""
    return MeterProvider(readers, resource=RESOURCE, shutdown_on_exit=False, **options)


def bound(
    provider: Any, around: Callable[[Any, Callable[[], Any]], Any] = lambda reader, collect: collect()
) -> Binding:
    """Stand between a provider and its readers."""
    binding = bind(provider, around)
    assert binding is not None
    binding.install()
    return binding


def test_this_sdk_is_known() -> None:
    """Else every joined provider would be served by the callback, which costs more."""
    assert module._works.__wrapped__()


def test_every_reader_gets_what_we_return() -> None:
    """Those it was made with and one that is added later, with what the SDK would have given it in our hands."""
    one, two = InMemoryMetricReader(), InMemoryMetricReader()
    provider = application(one)
    counter = provider.get_meter("application").create_counter("counter")
    seen: list[Any] = []
    binding = bound(provider, lambda reader, collect: (seen.append((reader, collect())), EMPTY)[1])
    nothing = one.get_metrics_data()
    provider.add_metric_reader(two)
    counter.add(1)

    assert (EMPTY, EMPTY, EMPTY) == (nothing, one.get_metrics_data(), two.get_metrics_data())
    assert [(one, False), (one, True), (two, True)] == [(reader, data is not None) for reader, data in seen]
    assert ((one, two), (two,)) == (binding.readers, binding.late_readers)


def test_a_reader_that_is_removed_is_let_go() -> None:
    """The SDK takes its callback away, and giving the others theirs back leaves it so."""
    one, two = InMemoryMetricReader(), InMemoryMetricReader()
    provider = application(one, two)
    binding = bound(provider)
    provider.remove_metric_reader(two)
    binding.remove()

    assert (None, (one,)) == (two._collect, binding.readers)


def test_removed_it_leaves_everything_as_it_was() -> None:
    """The SDK's own callback for each reader, and for those that are still to come."""
    one, two = InMemoryMetricReader(), InMemoryMetricReader()
    provider = application(one)
    consumer: Any = provider._measurement_consumer
    inside, callback = dict(vars(consumer)), one._collect
    binding = bound(provider, lambda reader, collect: EMPTY)
    binding.remove()
    unchanged = inside == vars(consumer)
    provider.add_metric_reader(two)

    assert unchanged
    assert (callback, callback) == (one._collect, two._collect)
    assert (None, None) == (one.get_metrics_data(), two.get_metrics_data())


def test_no_lock_of_the_sdk_is_held_when_we_are_asked() -> None:
    """What a handler does that an event of ours reaches can create instruments and collect."""
    one, two = InMemoryMetricReader(), InMemoryMetricReader()
    provider = application(one, two)

    def around(reader: MetricReader, collect: Callable[[], Any]) -> Any:
        if reader is one:
            provider.get_meter("application").create_observable_gauge("gauge")
            provider.add_metric_reader(InMemoryMetricReader())
            two.collect()
        return collect()

    bound(provider, around)
    thread = threading.Thread(target=one.collect, daemon=True)
    thread.start()
    thread.join(30)

    assert not thread.is_alive()


def test_a_collection_without_metrics_is_of_the_providers_resource() -> None:
    """Of that which it has at that moment: a forked child's differs from its parent's."""
    provider: Any = application(InMemoryMetricReader())
    binding = bound(provider)
    before = binding.nothing().resource_metrics[0]
    provider._update_resource(Resource({"process.pid": 7}))

    assert (RESOURCE, []) == (before.resource, before.scope_metrics)
    assert 7 == binding.nothing().resource_metrics[0].resource.attributes["process.pid"]


@pytest.mark.parametrize(
    ("options", "exemplars"), [({}, True), ({"exemplar_filter": AlwaysOffExemplarFilter()}, False)]
)
def test_it_tells_whether_the_provider_takes_exemplars(options: dict[str, Any], exemplars: bool) -> None:
    """By the provider's filter, not by the environment."""
    assert exemplars == bound(application(InMemoryMetricReader(), **options)).exemplars


def wrapped(provider: Any, reader: Any) -> None:
    """Let somebody else stand between them."""
    collect = reader._collect
    reader._set_collect_callback(lambda *args, **kwargs: collect(*args, **kwargs))


def replaced(provider: Any, reader: Any) -> None:
    """Let somebody else have replaced what later readers get."""
    provider._measurement_consumer.collect = lambda *args, **kwargs: None


def taken(provider: Any, reader: Any) -> None:
    """Let somebody else do just what we do."""
    replaced(provider, reader)
    reader._set_collect_callback(provider._measurement_consumer.collect)


def without_storages(provider: Any, reader: Any) -> None:
    """Let the SDK keep its readers elsewhere."""
    del provider._measurement_consumer._reader_storages


def without_configuration(provider: Any, reader: Any) -> None:
    """Let the SDK keep its Views elsewhere."""
    del provider._sdk_config


def shut_down(provider: Any, reader: Any) -> None:
    """End the provider."""
    provider.shutdown()


def with_our_meter_disabled(provider: Any, reader: Any) -> None:
    """Let the application want nothing of ours."""
    provider._set_meter_configurator(
        meter_configurator=lambda scope: type(provider._apply_meter_configurator(scope))(is_enabled=False)
    )


@pytest.mark.parametrize(
    "change", [wrapped, replaced, taken, without_storages, without_configuration, shut_down, with_our_meter_disabled]
)
def test_what_looks_different_is_left_alone(
    change: Callable[[Any, Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is touched unless all of it is as we know it."""
    reader = InMemoryMetricReader()
    provider = application(reader)
    change(provider, reader)
    before = reader._collect

    assert bind(provider, lambda reader, collect: EMPTY) is None
    assert before is reader._collect


def test_an_sdk_in_which_it_does_not_work_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything may look as ever and be called in another way."""
    monkeypatch.setattr(module, "_works", lambda: False)

    assert bind(application(InMemoryMetricReader()), lambda reader, collect: EMPTY) is None


def test_a_provider_that_is_not_the_sdks_is_left_alone() -> None:
    """Whatever it is."""
    assert bind(NoOpMeterProvider(), lambda reader, collect: EMPTY) is None


def test_a_provider_that_was_shut_down_is_known() -> None:
    """One that has no such thing has not ended."""
    provider = application()
    before = has_ended(provider)
    provider.shutdown()

    assert (False, True, False) == (before, has_ended(provider), has_ended(NoOpMeterProvider()))
