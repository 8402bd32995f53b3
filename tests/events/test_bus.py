"""The bus: who gets which event, under which name, and what a bad handler cannot do."""

from __future__ import annotations

import gc
import logging
import threading
from typing import Any

import pytest

from crucible_otel.errors import ConfigurationError, CrucibleOtelError, DuplicateHandlerError
from crucible_otel.events.bus import custom
from crucible_otel.events.handler import BuiltHandler
from crucible_otel.events.runtime import Runtime
from crucible_otel.semconv.registry import ALIASES
from tests.captured import Seen

KITCHEN_STEP = "crucible_kitchen.training.step"
STEP = "crucible.training.step"


def attach(runtime: Runtime, events: Any, handler: Any = None, *, handler_id: str = "one", **options: Any) -> Seen:
    """Attach a handler to a runtime and return what it will see."""
    seen = Seen()
    names = options.pop("names", "canonical")
    config = options.pop("config", None)
    runtime.bus.attach(custom(handler_id, events, seen if handler is None else handler, config, names), **options)
    return seen


@pytest.fixture
def runtime() -> Runtime:
    """A runtime of its own: events reach handlers, and nothing else."""
    return Runtime()


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        ["my.own.event"],
        [("my", "own", "event")],
        [["my", "own", "event"]],
        ("my", "own", "event"),
        "my.own.event",
        {"my.own.event"},
        ("my.own.event", "my.other.event"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["my.own.event", ("my", "own", "event"), ["my", "own", "event"]], ids=repr)
def test_dotted_and_tuple_names_are_the_same(runtime: Runtime, events: Any, name: Any) -> None:
    """However a name is written where it is attached and where it is executed, it is the same event."""
    seen = attach(runtime, events)
    runtime.execute(name, {"value": 1}, {"tag": "x"})
    assert [("my.own.event", {"value": 1}, {"tag": "x"})] == seen


def test_an_event_that_does_not_match_is_ignored(runtime: Runtime) -> None:
    """A handler is called for what it subscribes to only."""
    seen = attach(runtime, ["my.own.event"])
    runtime.execute("my.own.event.start")
    runtime.execute("my.own")
    assert [] == seen


def test_config_reaches_the_handler_untouched(runtime: Runtime) -> None:
    """The config is the very object that was attached."""
    config, got = object(), []
    attach(runtime, ["e"], lambda *args: got.append(args[3]), config=config)
    runtime.execute("e")
    assert got == [config]


def test_events_from_before_are_not_replayed(runtime: Runtime) -> None:
    """A handler sees what happens from now on."""
    runtime.execute("e", {"value": 1})
    seen = attach(runtime, ["e"])
    runtime.execute("e", {"value": 2})
    assert [("e", {"value": 2}, {})] == seen


def test_an_alias_subscriber_gets_an_event_under_its_alias(runtime: Runtime) -> None:
    """The seed's name, the seed's field names, measurements and metadata each where the seed has them."""
    seen = attach(runtime, [KITCHEN_STEP])
    runtime.execute(STEP, {"loss": 2.5, "learning_rate": 0.1, "gradient_norm": 3.0}, {"step": 7, "total_steps": 9})
    assert [(KITCHEN_STEP, {"loss": 2.5, "lr": 0.1, "grad_norm": 3.0}, {"step": 7, "total_steps": 9})] == seen


def test_an_event_of_one_seed_reaches_the_subscribers_of_another(runtime: Runtime) -> None:
    """One event, three names: each subscriber sees his own."""
    kitchen = attach(runtime, [KITCHEN_STEP], handler_id="kitchen")
    train = attach(runtime, ["crucible_train.batch.stop"], handler_id="train")
    ours = attach(runtime, [STEP], handler_id="ours")
    runtime.execute("crucible_train.batch.stop", {"loss": 1.0, "gradient_norm": 2.0}, {"epoch": 1, "batch": 5})
    assert [(KITCHEN_STEP, {"loss": 1.0, "grad_norm": 2.0}, {})] == kitchen
    assert [("crucible_train.batch.stop", {"loss": 1.0, "gradient_norm": 2.0}, {"epoch": 1, "batch": 5})] == train
    assert [(STEP, {"loss": 1.0, "gradient_norm": 2.0}, {"epoch": 1, "batch": 5})] == ours


@pytest.mark.parametrize("names", [[KITCHEN_STEP, STEP], [STEP, KITCHEN_STEP]], ids=["alias-first", "ours-first"])
def test_an_event_comes_once_under_the_first_name_that_matches(runtime: Runtime, names: list[str]) -> None:
    """Who subscribes to several names of one event gets it once."""
    seen = attach(runtime, names)
    runtime.execute("crucible_train.batch.stop", {"loss": 1.0})
    assert [names[0]] == seen.names


def test_success_and_failure_have_the_seeds_values(runtime: Runtime) -> None:
    """``crucible.result`` is a truth value for the kitchen's subscribers."""
    seen = attach(runtime, ["crucible_kitchen.stage.run.stop"])
    for result in ("success", "skip", "failure"):
        runtime.execute("crucible.stage.stop", {"duration": 5}, {"stage": "s", "result": result})
    assert [True, True, False] == [metadata["success"] for _, _, metadata in seen]
    assert [{"duration": 5}] * 3 == [measurements for _, measurements, _ in seen]


def test_what_the_user_added_reaches_alias_subscribers_too(runtime: Runtime) -> None:
    """Fields that no convention knows keep their names under every name of the event."""
    seen = attach(runtime, [KITCHEN_STEP])
    runtime.execute(STEP, {"loss": 1.0, "perplexity": 2.7}, {"step": 1, "shard": "a"})
    assert [(KITCHEN_STEP, {"loss": 1.0, "perplexity": 2.7}, {"step": 1, "shard": "a"})] == seen


def test_a_handler_of_everything_sees_canonical_names(runtime: Runtime) -> None:
    """Whatever name an event came in by."""
    seen = attach(runtime, None)
    runtime.execute(KITCHEN_STEP, {"lr": 0.1}, {"step": 1})
    runtime.execute("my.own.event")
    assert [(STEP, {"learning_rate": 0.1}, {"step": 1}), ("my.own.event", {}, {})] == seen


def test_a_handler_of_everything_may_ask_for_the_seeds_names(runtime: Runtime) -> None:
    """Those that have a seed's name come under it, the kitchen's where several seeds have one; others as they are."""
    seen = attach(runtime, None, names="seed")
    runtime.execute(STEP, {"learning_rate": 0.1}, {"step": 1})
    runtime.execute("crucible.training.skip", {}, {"reason": "nan"})
    runtime.execute("my.own.event")
    assert [
        (KITCHEN_STEP, {"lr": 0.1}, {"step": 1}),
        ("crucible.training.skip", {}, {"reason": "nan"}),
        ("my.own.event", {}, {}),
    ] == seen


# -- registration ------------------------------------------------------------------------------------------------------


def test_a_taken_id_is_refused_and_the_first_handler_stays(runtime: Runtime) -> None:
    """No event is delivered twice, and the error names the id and the ways out."""
    first = attach(runtime, ["e"])
    with pytest.raises(DuplicateHandlerError, match=r"'one' is attached already.*replace=True"):
        attach(runtime, ["e"])
    runtime.execute("e")
    assert [("e", {}, {})] == first


def test_replace_puts_a_new_handler_in_the_place_of_the_old(runtime: Runtime) -> None:
    """The old one is flushed and closed, and gets nothing more."""
    calls: list[str] = []
    old = BuiltHandler(
        id="one",
        handle=lambda *args: calls.append("old"),
        flush=lambda timeout_s: calls.append("flush") is None,
        close=lambda: calls.append("close"),
    )
    runtime.bus.attach(old)
    new = attach(runtime, ["e"], replace=True)
    runtime.execute("e")
    assert ["flush", "close"] == calls
    assert ["e"] == new.names


def test_detach_delivers_what_was_accepted_and_ends_the_handler(runtime: Runtime) -> None:
    """Flush, then close, and no more events."""
    calls: list[str] = []
    runtime.bus.attach(
        BuiltHandler(
            id="one",
            handle=lambda event, *args: calls.append(event),
            flush=lambda timeout_s: calls.append("flush") is None,
            close=lambda: calls.append("close"),
        )
    )
    runtime.execute("e")
    assert runtime.bus.detach("one")
    runtime.execute("e")
    assert ["e", "flush", "close"] == calls
    assert {} == runtime.bus.handlers()


def test_detaching_an_unknown_id_changes_nothing(runtime: Runtime) -> None:
    """It says that there is none."""
    seen = attach(runtime, ["e"])
    assert runtime.bus.detach("nobody") is False
    runtime.execute("e")
    assert ["e"] == seen.names


def test_handlers_lists_what_is_attached(runtime: Runtime) -> None:
    """By id, with the names they subscribe to; also by the beginning of the id."""
    attach(runtime, [("a", "b"), "c"], handler_id="mine-1")
    attach(runtime, None, handler_id="other")
    assert {"mine-1": ("a.b", "c"), "other": None} == runtime.bus.handlers()
    assert {"mine-1": ("a.b", "c")} == runtime.bus.handlers("mine")


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("handler_id", ("", ["e"], print, None)),
        ("handler_id", (None, ["e"], print, None)),
        ("handler", ("one", ["e"], "not callable", None)),
        ("events", ("one", [], print, None)),
        ("events", ("one", [""], print, None)),
        ("events", ("one", 5, print, None)),
        ("events", ("one", [5], print, None)),
        ("names", ("one", ["e"], print, None, "both")),
    ],
)
def test_bad_registrations_name_the_argument(field: str, given: tuple[Any, ...]) -> None:
    """What is wrong with a registration is said at once, as an error of ours that is a ValueError too."""
    with pytest.raises(ConfigurationError, match=f"^{field}=.*accepted: ") as caught:
        custom(*given)
    assert isinstance(caught.value, CrucibleOtelError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("field", "options"),
    [("every", {"every": 0}), ("every", {"every": 1.5}), ("every", {"every": True}), ("filter", {"filter": 5})],
    ids=repr,
)
def test_bad_delivery_options_name_the_argument(runtime: Runtime, field: str, options: dict[str, Any]) -> None:
    """Sampling and filter are checked when attached, and nothing is attached."""
    with pytest.raises(ConfigurationError, match=f"^{field}="):
        attach(runtime, ["e"], **options)
    assert {} == runtime.bus.handlers()


def test_listeners_hear_of_changes_as_long_as_they_live(runtime: Runtime) -> None:
    """Whoever looks at what is subscribed is told of each change, and not kept alive by that."""

    class Listener:
        heard = 0

        def changed(self) -> None:
            self.heard += 1

    listener, gone = Listener(), Listener()
    runtime.bus.on_change(listener.changed)
    runtime.bus.on_change(gone.changed)
    del gone
    gc.collect()
    attach(runtime, ["e"])
    runtime.bus.detach("one")
    assert 2 == listener.heard


# -- isolation ---------------------------------------------------------------------------------------------------------


def raising(*args: Any) -> None:
    """A handler with a mistake."""
    raise KeyError("https://hooks.example/T0/secret")


def line_of(function: Any, number: int) -> str:
    """Return a line of a function as logs have it: counted from its ``def``."""
    return f"test_bus.py:{function.__code__.co_firstlineno + number}"


def test_a_raising_handler_is_isolated_counted_and_stays(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """Others get their events, it gets the next one too, and the log has it once, not each time."""
    attach(runtime, ["e"], raising, handler_id="bad")
    good = attach(runtime, ["e"], handler_id="good")
    for _ in range(5):
        runtime.execute("e")
    assert 5 == len(good)
    assert {"bad": 5, "good": 0} == runtime.bus.failures()
    assert [f"handler 'bad' raised KeyError at {line_of(raising, 2)} (1 so far); it stays attached"] == [
        record.message for record in caplog.records
    ]
    assert {"bad", "good"} == set(runtime.bus.handlers())


def test_the_whole_of_a_failure_is_for_who_debugs(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """The message, which may hold a secret, and the traceback are there at DEBUG only."""
    caplog.set_level(logging.DEBUG, "crucible_otel")
    attach(runtime, ["e"], raising, handler_id="bad")
    runtime.execute("e")
    runtime.execute("e")
    warning, detail = caplog.records
    assert (logging.WARNING, None) == (warning.levelno, warning.exc_info)
    assert "secret" not in warning.message
    assert (logging.DEBUG, warning.name) == (detail.levelno, detail.name)
    assert "secret" in caplog.text
    assert "in raising" in caplog.text


def test_failures_are_told_to_whoever_counts(runtime: Runtime) -> None:
    """One call a failure, with the id."""
    told: list[str] = []
    runtime.bus.on_failure = told.append
    attach(runtime, ["e"], raising, handler_id="bad")
    runtime.execute("e")
    runtime.execute("e")
    assert ["bad", "bad"] == told


@pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit, RecursionError])
def test_no_exception_of_a_handler_gets_out(runtime: Runtime, error: type[BaseException]) -> None:
    """Not even one that would end the program."""

    def handler(*args: Any) -> None:
        raise error

    attach(runtime, ["e"], handler)
    runtime.execute("e")
    assert {"one": 1} == runtime.bus.failures()


def test_a_ctrl_c_in_a_handler_is_the_users(runtime: Runtime) -> None:
    """KeyboardInterrupt is not the handler's mistake and travels on; what was being opened is closed again."""

    def handler(*args: Any) -> None:
        raise KeyboardInterrupt

    attach(runtime, ["crucible.stage.start"], handler)
    seen = attach(runtime, ["crucible.stage.exception"], handler_id="end")
    with pytest.raises(KeyboardInterrupt):
        runtime.execute("crucible.stage.start", {}, {"stage": "s"})
    assert ["cancellation"] == [metadata["result"] for _, _, metadata in seen]
    assert {} == runtime.open_scopes


def test_a_handler_cannot_change_what_others_see(runtime: Runtime) -> None:
    """Each gets measurements and metadata of its own."""

    def vandal(event: str, measurements: dict[str, Any], metadata: dict[str, Any], config: Any) -> None:
        measurements.clear()
        metadata["x"] = "changed"

    attach(runtime, ["e"], vandal, handler_id="vandal")
    seen = attach(runtime, ["e"], handler_id="next")
    runtime.execute("e", {"value": 1}, {"x": "as it was"})
    assert [("e", {"value": 1}, {"x": "as it was"})] == seen


def test_a_handler_that_raises_when_closed_is_detached_all_the_same(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end is its own business."""

    def close() -> None:
        raise OSError("disk")

    runtime.bus.attach(BuiltHandler(id="one", handle=print, close=close))
    assert runtime.bus.detach("one")
    assert {} == runtime.bus.handlers()
    assert [f"handler 'one' raised OSError at {line_of(close, 1)} (1 so far) when it was to deliver or to end"] == [
        record.message for record in caplog.records if record.levelno == logging.WARNING
    ]


def test_a_flush_tells_whether_every_handler_was_in_time(runtime: Runtime) -> None:
    """One that ran out of time, or raised, makes it False."""
    runtime.bus.attach(BuiltHandler(id="quick", handle=print))
    assert runtime.bus.flush(1.0)
    runtime.bus.attach(BuiltHandler(id="slow", handle=print, flush=lambda timeout_s: False))
    assert not runtime.bus.flush(1.0)


# -- filters and sampling ----------------------------------------------------------------------------------------------


def test_a_filter_decides_by_event_and_values(runtime: Runtime) -> None:
    """The guide's example: steps only above a loss, everything else; the filter sees the subscriber's names."""

    def loud(event: str, measurements: dict[str, Any], metadata: dict[str, Any]) -> bool:
        return event != KITCHEN_STEP or measurements["loss"] > 1.0

    seen = attach(runtime, [KITCHEN_STEP, "crucible_kitchen.training.epoch"], filter=loud)
    for loss in (2.0, 0.5, 1.5):
        runtime.execute(STEP, {"loss": loss})
    runtime.execute("crucible.training.epoch", {"loss": 0.1}, {"epoch": 1})
    assert [{"loss": 2.0}, {"loss": 1.5}, {"epoch_loss": 0.1}] == [measurements for _, measurements, _ in seen]


def test_a_filter_that_raises_drops_the_event_and_counts(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """A missing key is a failure of this handler, told of as where it is; the others are not disturbed."""

    def loud(event: str, measurements: dict[str, Any], metadata: dict[str, Any]) -> bool:
        return bool(measurements["loss"] > 1)

    seen = attach(runtime, ["e"], filter=loud)
    other = attach(runtime, ["e"], handler_id="other")
    runtime.execute("e")
    runtime.execute("e", {"loss": 2})
    assert [("e", {"loss": 2}, {})] == seen
    assert 2 == len(other)
    assert {"one": 1, "other": 0} == runtime.bus.failures()
    assert f"raised KeyError at {line_of(loud, 1)} (" in caplog.text


def test_every_nth_point_event_of_a_name_is_delivered(runtime: Runtime) -> None:
    """The first, then every third, each name counted by itself; others get all."""
    seen = attach(runtime, ["a", "b"], every=3)
    everything = attach(runtime, None, handler_id="all")
    for number in range(7):
        runtime.execute("a", {"number": number})
    runtime.execute("b", {"number": 0})
    assert [("a", 0), ("a", 3), ("a", 6), ("b", 0)] == [(name, values["number"]) for name, values, _ in seen]
    assert 8 == len(everything)


def test_starts_and_ends_are_never_sampled(runtime: Runtime) -> None:
    """Half a pair would be worse than none."""
    seen = attach(runtime, None, every=100)
    for _ in range(2):
        runtime.execute("crucible.stage.start", {}, {"stage": "s"})
        runtime.execute("crucible.stage.stop", {}, {"stage": "s"})
    assert ["crucible.stage.start", "crucible.stage.stop"] * 2 == seen.names


# -- re-entrance and threads -------------------------------------------------------------------------------------------


def test_a_handler_may_emit_events_itself(runtime: Runtime) -> None:
    """Others get them; it does not get its own, so that nothing goes round in circles."""
    got: list[str] = []

    def echo(event: str, measurements: dict[str, Any], metadata: dict[str, Any], config: Any) -> None:
        got.append(event)
        runtime.execute("echo." + event)

    attach(runtime, None, echo, handler_id="echo")
    seen = attach(runtime, None, handler_id="seen")
    runtime.execute("e")
    assert ["e"] == got
    assert ["echo.e", "e"] == seen.names


def test_a_handler_may_attach_and_detach(runtime: Runtime) -> None:
    """The event being delivered goes on by the table it began with."""

    def once(event: str, *args: Any) -> None:
        runtime.bus.detach("once")
        attach(runtime, ["e"], later, handler_id="later")

    later = Seen()
    attach(runtime, ["e"], once, handler_id="once")
    runtime.execute("e")
    runtime.execute("e")
    assert ["later"] == list(runtime.bus.handlers())
    assert ["e"] == later.names


def test_no_event_is_lost_or_doubled_while_handlers_come_and_go(runtime: Runtime) -> None:
    """Four threads emit while a fifth attaches and detaches others."""
    seen = attach(runtime, ["e"], handler_id="steady")
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            attach(runtime, ["e"], handler_id="guest")
            runtime.bus.detach("guest")

    def emit(thread: int) -> None:
        for number in range(250):
            runtime.execute("e", {"number": number}, {"thread": thread})

    guest = threading.Thread(target=come_and_go)
    emitters = [threading.Thread(target=emit, args=(thread,)) for thread in range(4)]
    for thread in (guest, *emitters):
        thread.start()
    for thread in emitters:
        thread.join()
    done.set()
    guest.join()
    assert [(thread, number) for thread in range(4) for number in range(250)] == sorted(
        (metadata["thread"], measurements["number"]) for _, measurements, metadata in seen
    )


def test_every_alias_can_be_subscribed_to(runtime: Runtime) -> None:
    """Each alias is delivered for each of the events that it stands for."""
    for alias in ALIASES.values():
        seen = attach(runtime, [alias.name], handler_id=alias.name)
        for target in alias.targets:
            if not target.endswith((".stop", ".exception")):
                runtime.execute(target)
                if target.endswith(".start"):
                    runtime.execute(target.removesuffix("start") + "stop")
            else:
                runtime.execute(target)
        assert {alias.name} == set(seen.names)
        runtime.bus.detach(alias.name)
