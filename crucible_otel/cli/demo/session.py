"""One run of the demo: where telemetry goes, the story, and what is shown of it."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import crucible_otel as cx
from crucible_otel._setup import Telemetry
from crucible_otel.cli.demo import report
from crucible_otel.cli.demo.curves import from_jsonl, from_logs
from crucible_otel.cli.demo.data import SAMPLES
from crucible_otel.cli.demo.model import WIDTHS, make
from crucible_otel.cli.demo.numbers import counted
from crucible_otel.cli.demo.plot import draw
from crucible_otel.cli.demo.result import DemoResult
from crucible_otel.cli.demo.screen import Progress, Screen
from crucible_otel.cli.demo.story import Story, tell
from crucible_otel.config.declare import variable
from crucible_otel.config.settings import Settings
from crucible_otel.errors import ConfigurationError
from crucible_otel.semconv.training import EPOCH_OPERATION, STEP_EVENT
from crucible_otel.testing.receiver import OtlpReceiver

_ENDPOINTS: Final = (
    variable("endpoint"),
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
)
_DEFAULTS: Final[Mapping[str, Any]] = {"service_name": "crucible-demo", "step_event_interval_s": 0.0}
"""What the demo sets where the environment does not; every step as a log event, for the picture's sake."""

_LINES: Final = 15
"""The most training steps that get a line."""

_EVERY: Final = tuple(factor * 10**power for power in range(6) for factor in (1, 2, 5))
_FLUSH_S: Final = 10.0
"""For what has only to reach the receiver inside; what is sent elsewhere gets the exit timeout."""
_SCRAPE_S: Final = 5.0
_NO_PROXY: Final = ("NO_PROXY", "no_proxy")


class Session:
    """One run.

    Args:
        arguments: What the command line says.

    Raises:
        ConfigurationError: The folder for the files cannot be written to.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._given = arguments
        self._screen = Screen(quiet=arguments.quiet)
        self._folder = Path(arguments.out)
        self._checkpoints = self._folder / "checkpoints"
        self._jsonl = self._folder / "events.jsonl"
        self._scrape = ""
        try:
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            self._jsonl.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError("--out", str(self._folder), f"a folder to write to ({error.strerror})") from error

    def run(self) -> DemoResult:
        """Run the demo."""
        model = make(self._given.seed)
        with self._receiver() as receiver, self._telemetry(receiver) as telemetry:
            report.header(self._screen, self._facts(telemetry, receiver, model.library))
            self._screen.heading("The training", "as the console handler tells it")
            with self._handlers(telemetry):
                story = tell(
                    model,
                    epochs=self._given.epochs,
                    batch_size=self._given.batch_size,
                    seed=self._given.seed,
                    folder=self._checkpoints,
                )
            delivered = telemetry.flush(telemetry.settings.exit_timeout_s if receiver is None else _FLUSH_S)
            result = self._result(telemetry, receiver, story, delivered)
            self._show(telemetry, result)
            self._hold(telemetry)
        return result

    # -- where telemetry goes ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _receiver(self) -> Iterator[OtlpReceiver | None]:
        """Receive in this program, unless the environment says where to send."""
        if any(os.environ.get(name, "").strip() for name in _ENDPOINTS):
            yield None
            return
        before = {name: os.environ.get(name) for name in _NO_PROXY}
        try:
            with OtlpReceiver() as receiver:
                # A proxy for the network knows nothing of what listens in here.
                os.environ.update(dict.fromkeys(_NO_PROXY, "127.0.0.1,localhost"))
                yield receiver
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    @contextlib.contextmanager
    def _telemetry(self, receiver: OtlpReceiver | None) -> Iterator[Telemetry]:
        given: dict[str, Any] = {"protocol": self._given.protocol} if self._given.protocol else {}
        resolved = Settings(**given).resolve(os.environ)
        given |= {name: value for name, value in _DEFAULTS.items() if resolved.source(name) == "default"}
        if receiver is not None:
            grpc = resolved.protocol == "grpc"
            given |= {
                "protocol": resolved.protocol,
                "endpoint": receiver.grpc_endpoint if grpc else receiver.http_endpoint,
            }
        telemetry = cx.configure(**given)
        try:
            yield telemetry
        finally:
            telemetry.shutdown()

    @contextlib.contextmanager
    def _handlers(self, telemetry: Telemetry) -> Iterator[None]:
        """Tell the story on the screen and into the file, and look at the Prometheus endpoint on the way."""
        steps = self._given.epochs * SAMPLES / self._given.batch_size
        every = next((number for number in _EVERY if steps / number <= _LINES), _EVERY[-1])
        attached = [cx.attach("jsonl", path=self._jsonl, replace=True)]
        if not self._given.quiet:
            attached.append(cx.attach("console", stream=self._screen, every=every, replace=True))
            progress = Progress(self._screen)
            attached.append(cx.attach_handler("demo-progress", STEP_EVENT.name, progress, replace=True))
        if telemetry.prometheus_url:
            look, url = self._look, telemetry.prometheus_url
            attached.append(cx.attach_handler("demo-scrape", EPOCH_OPERATION.stop.name, look, url, replace=True))
        try:
            yield
        finally:
            for handler_id in attached:
                cx.detach(handler_id)
            self._screen.progress("")

    def _look(self, event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], url: str) -> None:
        """Scrape as Prometheus would, after the first epoch."""
        if self._scrape:
            return
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(url, timeout=_SCRAPE_S) as response:
            self._scrape = response.read().decode()

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _facts(self, telemetry: Telemetry, receiver: OtlpReceiver | None, library: str) -> dict[str, str]:
        given, dot = self._given, self._screen.glyphs.dot
        settings = telemetry.settings
        if receiver is not None:
            where = f"OTLP {settings.protocol} to a receiver inside this program, {settings.endpoint}"
        else:
            signals = telemetry.status().get("signals", ())
            where = ", ".join(f"{each['signal']} to {each['endpoint']}" for each in signals)
        if not telemetry.enabled:
            where = "nowhere: telemetry is switched off by the environment"
        run = f"{counted(given.epochs, 'epoch')} {dot} batches of {given.batch_size} {dot} seed {given.seed}"
        return {
            "data": "1,797 handwritten digits of 8 by 8 pixels, from scikit-learn",
            "model": f"a {library} perceptron, {'-'.join(map(str, WIDTHS))} {dot} {run}",
            "telemetry": where or "nowhere: the environment asks for no exporter",
            "Prometheus": f"{telemetry.prometheus_url or 'no endpoint'}"
            + (f" for {given.hold:g} s after the end" if given.hold and telemetry.prometheus_url else ""),
            "run id": telemetry.run_id or "none",
        }

    def _result(self, telemetry: Telemetry, receiver: OtlpReceiver | None, story: Story, delivered: bool) -> DemoResult:
        received = receiver is not None and any(log.event_name == STEP_EVENT.name for log in receiver.logs)
        curves = from_logs(receiver.logs) if receiver is not None and received else from_jsonl(self._jsonl)
        source = "the log events that arrived" if received else str(self._jsonl)
        picture = self._folder / "curves.png"
        no_picture = draw(curves, picture, source=source)
        return DemoResult(
            story=story,
            receiver=receiver,
            delivered=delivered,
            run_id=telemetry.run_id,
            prometheus_url=telemetry.prometheus_url,
            scrape=self._scrape,
            curves=curves,
            jsonl=self._jsonl,
            picture=None if no_picture else picture,
            no_picture=no_picture,
        )

    def _show(self, telemetry: Telemetry, result: DemoResult) -> None:
        if result.receiver is not None and telemetry.enabled:
            report.arrived(self._screen, result.receiver)
        elif telemetry.enabled:
            report.sent(self._screen, telemetry.status(), result.delivered)
        report.scraped(self._screen, result)
        report.files(self._screen, result)

    def _hold(self, telemetry: Telemetry) -> None:
        if not self._given.hold:
            return
        url = telemetry.prometheus_url
        with contextlib.suppress(KeyboardInterrupt):  # who reads the line may be quicker than the next statement
            self._screen.line(f"  {url} stays up for {self._given.hold:g} s; Ctrl-C ends it" if url else "")
            time.sleep(self._given.hold)
