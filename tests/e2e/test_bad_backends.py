"""Wrong settings towards a real Collector and a real Prometheus: one line with the cause and what to change.

Each program is told by environment variables alone. It trains a little and raises an error of its own, which has to
reach it as ever; then it either just ends, or flushes in mid-run and tells its counts.
"""

from __future__ import annotations

import json
import re
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import pytest

from scripts.backends import PROMETHEUS
from tests.e2e.certificates import Authority
from tests.e2e.conftest import shown
from tests.e2e.servers import Collector, Server, free_ports
from tests.export.causes_table import documented
from tests.export.otlp_server import closed_port
from tests.integration.programs import Ended, Program, run

EXIT_S: Final = 3.5
"""What the design allows from the last line of a program to its end."""

TOKEN, SECRET = "token-that-is-right", "sk-that-is-wrong"
BIG: Final = 100
"""Attributes of 16 kB each."""

SPANS: Final = 6
SIGNALS: Final = {"traces": "spans", "logs": "log records", "metrics": "metric points"}
PROTOCOLS: Final = {"http/protobuf": "http", "grpc": "grpc"}

LOOP = r"""
import json, os, time, urllib.request
import crucible_otel as cx

telemetry = cx.configure()
try:
    with cx.workflow("w"), cx.stage("s"), cx.train("m") as run:
        for epoch in run.epochs(2):
            for batch, step in run.steps([1, 2, 3]):
                step.log(loss=0.5)
                print("step", batch)
        with cx.span("big", {f"text_{n}": "\N{GRINNING FACE}" * 4_000 for n in range(int(os.environ.get("BIG", "1")))}):
            pass
        raise KeyError("mine")
except KeyError as error:
    print("caught", error)
"""
LOOP_SAYS: Final = ["step 1", "step 2", "step 3"] * 2 + ["caught 'mine'"]

ENDS = LOOP + "print(time.monotonic())\n"

FLUSHES = (
    LOOP
    + """
telemetry.flush(5)
status = telemetry.status()["signals"]
page = urllib.request.urlopen(telemetry.prometheus_url, timeout=30).read().decode()
telemetry.flush(5)
print(json.dumps([status, [line for line in page.splitlines() if line.startswith("crucible_sdk_dropped_total{")]]))
print(time.monotonic())
"""
)


class GuardedPrometheus(Server):
    """A Prometheus with an OTLP receiver that wants a password, over TLS.

    Args:
        folder: For its files.
        authority: Signs its certificate.
    """

    USER, PASSWORD = "admin", "test"
    # The pair of Prometheus' own guide to basic auth.
    _HASH = "$2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay"

    def __init__(self, folder: Path, authority: Authority) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (port,) = free_ports(1)
        self.url = f"https://127.0.0.1:{port}"
        self._trust = ssl.create_default_context(cafile=str(authority.certificate))
        web = {
            "basic_auth_users": {self.USER: self._HASH},
            "tls_server_config": authority.issue("prometheus", "IP:127.0.0.1").for_collector,
        }
        # JSON is YAML too.
        (folder / "web.yml").write_text(json.dumps(web))
        (folder / "prometheus.yml").write_text("{}")
        super().__init__(
            [
                PROMETHEUS.program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--web.config.file={folder / 'web.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--web.enable-otlp-receiver",
            ],
            folder,
        )

    def is_ready(self) -> bool:
        """Whether it answers who knows the password."""
        return bool(self.ask("/-/ready"))

    def ask(self, path: str) -> str:
        """Fetch a page of it."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": self.credentials})
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._trust)
        )
        with opener.open(request, timeout=30) as response:
            return str(response.read().decode())

    @property
    def credentials(self) -> str:
        """What the header says of one who knows the password."""
        return f"Basic {b64encode(f'{self.USER}:{self.PASSWORD}'.encode()).decode()}"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the tests send to.

    Attributes:
        collector: With a receiver for each purpose.
        authority: Who signed the receivers' certificates.
    """

    collector: Collector
    authority: Authority

    def at(self, receiver: str, protocol: str, scheme: str = "http", host: str = "127.0.0.1") -> str:
        """Return where a receiver listens."""
        endpoint = self.collector.config["receivers"][receiver]["protocols"][PROTOCOLS[protocol]]["endpoint"]
        return f"{scheme}://{host}:{endpoint.rpartition(':')[2]}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom the programs may trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def running(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One Collector with all receivers."""

    def both(**settings: Any) -> dict[str, Any]:
        return {"protocols": {"grpc": settings, "http": settings}}

    receivers = {
        "otlp": both(),
        "otlp/token": both(auth={"authenticator": "bearertokenauth"}),
        "otlp/tls": both(tls=authority.issue("right", "DNS:localhost", "IP:127.0.0.1").for_collector),
        "otlp/elsewhere": both(tls=authority.issue("elsewhere", "DNS:localhost").for_collector),
        "otlp/small": {
            "protocols": {"grpc": {"max_recv_msg_size_mib": 1}, "http": {"max_request_body_size": 100_000}},
        },
        "otlp/tiny": {"protocols": {"http": {"max_request_body_size": 6_000}}},
    }
    pipeline = {"receivers": list(receivers), "exporters": ["debug"]}
    config = {
        "receivers": receivers,
        "extensions": {"bearertokenauth": {"token": TOKEN}},
        "exporters": {"debug": None},
        "service": {"extensions": ["bearertokenauth"], "pipelines": dict.fromkeys(SIGNALS, pipeline)},
    }
    with Collector([config], tmp_path_factory.mktemp("bad")) as collector:
        yield Bench(collector=collector, authority=authority)


@pytest.fixture
def bench(running: Bench) -> Iterator[Bench]:
    """The Collector, whose log is shown when a test fails."""
    with shown(running.collector):
        yield running


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A wrong setting.

    Attributes:
        reason: The cause, as the guide has it.
        endpoint: Where the program is told to send.
        environ: What else it is told.
        fixed: The settings that are right, as the line says to change them.
    """

    reason: str
    endpoint: str
    environ: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)


ENDPOINT, PROTOCOL = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"
CERTIFICATE, HEADERS = "OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_HEADERS"


def authorization(value: str) -> str:
    """Return a header as the environment variable wants it."""
    return f"authorization={quote(value)}"


def mistakes(bench: Bench, protocol: str, refused: str) -> dict[str, Mistake]:
    """Return what can be set wrongly with a protocol."""
    (other,) = set(PROTOCOLS) - {protocol}
    http = protocol == "http/protobuf"
    trust = {CERTIFICATE: str(bench.authority.certificate)}
    plain, tls = bench.at("otlp", protocol), bench.at("otlp/tls", protocol, "https")
    refuses = "HTTP 401, the server refuses our credentials" if http else "the server refuses our credentials"
    crossed = f"{'a gRPC' if http else 'an HTTP'} server listens there, not {'an HTTP' if http else 'a gRPC'} one"
    found = {
        "unreachable": Mistake(
            reason="connection refused, nothing listens there", endpoint=refused, fixed={ENDPOINT: plain}
        ),
        "no token": Mistake(
            reason=refuses,
            endpoint=bench.at("otlp/token", protocol),
            fixed={HEADERS: authorization(f"Bearer {TOKEN}")},
        ),
        "wrong token": Mistake(
            reason=refuses,
            endpoint=bench.at("otlp/token", protocol),
            environ={HEADERS: authorization(f"Bearer {SECRET}")},
            fixed={HEADERS: authorization(f"Bearer {TOKEN}")},
        ),
        "certificate of another host": Mistake(
            reason="the server's certificate is for another host",
            endpoint=bench.at("otlp/elsewhere", protocol, "https"),
            environ=trust,
            fixed={ENDPOINT: bench.at("otlp/elsewhere", protocol, "https", "localhost")},
        ),
        "certificate of an unknown authority": Mistake(
            reason="TLS failed, the certificate is not trusted or not usable", endpoint=tls, fixed=trust
        ),
        "other protocol": Mistake(reason=crossed, endpoint=bench.at("otlp", other), fixed={PROTOCOL: other}),
        "other protocol with TLS": Mistake(
            reason=crossed, endpoint=bench.at("otlp/tls", other, "https"), environ=trust, fixed={PROTOCOL: other}
        ),
        "no TLS to a server with it": Mistake(
            reason="the server speaks TLS only",
            endpoint=tls.replace("https:", "http:"),
            environ=trust,
            fixed={ENDPOINT: tls},
        ),
        "TLS to a server without": Mistake(
            reason="the server does not speak TLS",
            endpoint=plain.replace("http:", "https:"),
            fixed={ENDPOINT: plain},
        ),
    }
    if http:
        found["no such path"] = Mistake(
            reason="HTTP 404, the server has no OTLP receiver at this path",
            endpoint=f"{plain}/otlp",
            fixed={ENDPOINT: plain},
        )
    return found


CASES = [
    (name, protocol)
    for protocol in PROTOCOLS
    for name in (
        "unreachable", "no token", "wrong token", "certificate of another host", "certificate of an unknown authority",
        "other protocol", "other protocol with TLS", "no TLS to a server with it", "TLS to a server without",
        *(["no such path"] if protocol == "http/protobuf" else []),
    )
]  # fmt: skip


def environment(protocol: str, endpoint: str, *more: Mapping[str, str]) -> dict[str, str]:
    """Return what a program is told."""
    told = {
        ENDPOINT: endpoint,
        PROTOCOL: protocol,
        "OTEL_METRICS_EXPORTER": "otlp,prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
    }
    for each in more:
        told.update(each)
    return told


def remedy(reason: str) -> str:
    """Return what the guide says to change."""
    return documented()[re.sub(r"^HTTP \d+, ", "", reason)]


def said(pattern: str, **values: str) -> re.Pattern[str]:
    """Compile a pattern with texts in it that stand for themselves."""
    return re.compile(pattern.format_map({name: re.escape(value) for name, value in values.items()}))


def line_at_the_end(
    mistake: Mistake, *, told: bool, lost: str = r"{spans} spans, \d+ log records, \d+ metric points"
) -> re.Pattern[str]:
    """Return the last line of a program that lost everything; what to change is in it unless it was told before."""
    parts = urlsplit(mistake.endpoint)
    return said(
        rf"telemetry ends with {lost} dropped, not delivered to {{origin}} \({{why}}\)",
        spans=str(SPANS),
        origin=f"{parts.scheme}://{parts.netloc}",
        why=mistake.reason if told else f"{mistake.reason}; {remedy(mistake.reason)}",
    )


def line_in_between(mistake: Mistake, protocol: str) -> re.Pattern[str]:
    """Return the one warning, of whichever signal failed first."""
    ways = "|".join(
        f"{noun} to {re.escape(mistake.endpoint)}{f'/v1/{signal}' if protocol == 'http/protobuf' else ''}"
        for signal, noun in SIGNALS.items()
    )
    return said(
        rf"telemetry is being lost: ({ways}): {{reason}}; {{remedy}}\. Dropped so far: [^.]*\.",
        reason=mistake.reason,
        remedy=remedy(mistake.reason),
    )


def run_together(*programs: tuple[str, Mapping[str, str]]) -> list[Ended]:
    """Run programs at once, each to its good end, in time after its last line."""
    with ExitStack() as stack:
        started = [stack.enter_context(Program(source, environ)) for source, environ in programs]
        # Each is waited for by itself: the moment of its end counts.
        with ThreadPoolExecutor(len(started)) as waiting:
            ended = list(waiting.map(Program.end, started))
    for number, each in enumerate(ended):
        assert 0 == each.code, "\n".join([*each.output, *each.errors])
        assert LOOP_SAYS == each.output[: len(LOOP_SAYS)]
        assert SECRET not in "\n".join([*each.output, *each.errors])
        assert left_s(each) < EXIT_S or leaves_in_time(*programs[number])
    return ended


def left_s(ended: Ended) -> float:
    """Return how long a program took after its last line, which says when it was."""
    return ended.at_s - float(ended.output[-1])


def leaves_in_time(source: str, environ: Mapping[str, str]) -> bool:
    """Run a program that seemed slow again, alone: a busy machine only ever adds to a duration."""
    return any(left_s(run(source, environ)) < EXIT_S for _ in range(2))


def assert_lines(expected: list[re.Pattern[str]], actual: list[str]) -> None:
    """Each line is as expected, and there are no others."""
    assert [True] * len(expected) == [
        bool(pattern.fullmatch(line)) for pattern, line in zip(expected, actual, strict=False)
    ], actual
    assert len(expected) == len(actual), actual


def by_signal(ended: Ended) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Return what a program that flushes printed: its status, and what its own metric says was dropped."""
    status, lines = json.loads(ended.output[-2])
    dropped: dict[str, int] = {}
    for line in lines:
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        assert "export_failed" == labels["crucible_sdk_drop_reason"]
        dropped[labels["crucible_sdk_signal"]] = int(float(line.rpartition(" ")[2]))
    return {each["signal"]: each for each in status}, dropped


@pytest.mark.parametrize(("name", "protocol"), CASES, ids=[f"{name}, {protocol}" for name, protocol in CASES])
def test_a_mistake_is_one_line_and_mending_it_as_the_line_says_helps(bench: Bench, name: str, protocol: str) -> None:
    """Three programs: one ends with one line, one flushes in mid-run and counts, one does what the line says."""
    with closed_port() as refused:
        mistake = mistakes(bench, protocol, refused)[name]
        wrong = environment(protocol, mistake.endpoint, mistake.environ)
        ends, flushes, mended = run_together(
            (ENDS, wrong),
            # Else each flush goes on trying for ten seconds.
            (FLUSHES, {**wrong, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.9"}),
            (FLUSHES, environment(protocol, mistake.endpoint, mistake.environ, mistake.fixed)),
        )

    assert_lines([line_at_the_end(mistake, told=False)], ends.errors)
    assert_lines([line_in_between(mistake, protocol), line_at_the_end(mistake, told=True)], flushes.errors)
    assert [] == mended.errors

    good, nothing = by_signal(mended)
    assert {} == nothing
    bad, dropped = by_signal(flushes)
    assert SPANS == good["traces"]["delivered"] == bad["traces"]["failed"]
    assert 0 < good["logs"]["delivered"] == bad["logs"]["failed"]
    for signal in SIGNALS:
        assert 0 == bad[signal]["delivered"] == good[signal]["failed"]
        assert 0 < bad[signal]["accepted"] == bad[signal]["failed"] == dropped[signal]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_what_is_too_large_by_itself_is_lost(bench: Bench, protocol: str) -> None:
    """One span of 1.6 MB is dropped with one line, its batch arrives; shortened as the line says, it arrives too."""
    mistake = Mistake(
        reason=f"{'HTTP 400, ' if protocol == 'http/protobuf' else ''}the server finds even a single item too large",
        endpoint=bench.at("otlp/small", protocol),
        environ={"BIG": str(BIG)},
        fixed={"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "100"},
    )
    before = bench.collector.own_metric("otelcol_receiver_accepted_spans")
    ends, flushes, mended = run_together(
        (ENDS, environment(protocol, mistake.endpoint, mistake.environ)),
        (FLUSHES, environment(protocol, mistake.endpoint, mistake.environ)),
        (FLUSHES, environment(protocol, mistake.endpoint, mistake.environ, mistake.fixed)),
    )

    assert_lines([line_at_the_end(mistake, told=False, lost="1 span")], ends.errors)
    assert_lines(
        [line_in_between(mistake, protocol), line_at_the_end(mistake, told=True, lost="1 span")],
        flushes.errors,
    )
    # The SDK tells of each value that it shortens.
    assert [] == mended.ours
    good, nothing = by_signal(mended)
    bad, dropped = by_signal(flushes)
    assert ({}, {"traces": 1}) == (nothing, dropped)
    assert {"traces": 1, "logs": 0, "metrics": 0} == {signal: bad[signal]["failed"] for signal in SIGNALS}
    for signal in ("traces", "logs"):
        assert good[signal]["delivered"] == bad[signal]["delivered"] + bad[signal]["failed"]
    assert 3 * SPANS - 2 == bench.collector.own_metric("otelcol_receiver_accepted_spans") - before


def test_a_batch_that_is_too_large_arrives_in_pieces(bench: Bench) -> None:
    """A limit that batches of all three signals exceed and no item does: nothing is lost, nothing is said."""
    names = {signal: f"otelcol_receiver_accepted_{noun.replace(' ', '_')}" for signal, noun in SIGNALS.items()}
    before = {signal: bench.collector.own_metric(name) for signal, name in names.items()}
    many = """
for number in range(60):
    with cx.span(f"s{number}", {"text": "y" * 500}):
        pass
"""
    (ended,) = run_together(
        (
            FLUSHES.replace("\ntelemetry.flush(5)", f"{many}\ntelemetry.flush(5)", 1),
            environment("http/protobuf", bench.at("otlp/tiny", "http/protobuf"), {"BIG": "0"}),
        )
    )

    assert [] == ended.errors
    status, dropped = by_signal(ended)
    assert {} == dropped
    assert SPANS + 60 == status["traces"]["delivered"]
    arrived = {signal: bench.collector.own_metric(name) - before[signal] for signal, name in names.items()}
    assert [status[signal]["accepted"] for signal in ("traces", "logs")] == [arrived["traces"], arrived["logs"]]
    # Two more collections go out after the count.
    assert arrived["metrics"] > status["metrics"]["accepted"] > 0


@pytest.fixture(scope="module")
def guarded(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedPrometheus]:
    """A Prometheus that does not take from everybody."""
    with GuardedPrometheus(tmp_path_factory.mktemp("guarded"), authority) as server:
        yield server


@pytest.mark.parametrize(
    "name", ["no password", "wrong password", "other host", "unknown authority", "no TLS", "no path"]
)
def test_a_prometheus_that_is_guarded_is_told_of_in_one_line(
    guarded: GuardedPrometheus, authority: Authority, name: str
) -> None:
    """Its OTLP receiver with a password and TLS; with all settings right it has the counts."""
    base = f"{guarded.url}/api/v1/otlp"
    trust = {CERTIFICATE: str(authority.certificate)}
    right = {**trust, HEADERS: authorization(guarded.credentials)}
    wrong = authorization(f"Basic {b64encode(f'{guarded.USER}:{SECRET}'.encode()).decode()}")
    refuses = "HTTP 401, the server refuses our credentials"
    mistake = {
        "no password": Mistake(reason=refuses, endpoint=base, environ=trust),
        "wrong password": Mistake(reason=refuses, endpoint=base, environ={**trust, HEADERS: wrong}),
        "other host": Mistake(
            reason="the server's certificate is for another host",
            endpoint=base.replace("127.0.0.1", "localhost"),
            environ=right,
        ),
        "unknown authority": Mistake(
            reason="TLS failed, the certificate is not trusted or not usable",
            endpoint=base,
            environ={HEADERS: right[HEADERS]},
        ),
        "no TLS": Mistake(reason="the server speaks TLS only", endpoint=base.replace("https:", "http:"), environ=right),
        "no path": Mistake(
            reason="HTTP 404, the server has no OTLP receiver at this path", endpoint=guarded.url, environ=right
        ),
    }[name]
    metrics = {
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": name.replace(" ", "-"),
    }
    told = environment("http/protobuf", mistake.endpoint, mistake.environ, metrics)
    ends, flushes, mended = run_together(
        (ENDS, told),
        (FLUSHES, told),
        (FLUSHES, environment("http/protobuf", base, right, metrics)),
    )

    assert_lines([line_at_the_end(mistake, told=False, lost=r"\d+ metric points")], ends.errors)
    assert_lines(
        [line_in_between(mistake, "http/protobuf"), line_at_the_end(mistake, told=True, lost=r"\d+ metric points")],
        flushes.errors,
    )
    assert [] == mended.errors
    bad, dropped = by_signal(flushes)
    assert 0 == bad["metrics"]["delivered"]
    assert 0 < bad["metrics"]["accepted"] == bad["metrics"]["failed"] == dropped["metrics"]
    query = quote(f'crucible_training_steps_total{{job="{metrics["OTEL_SERVICE_NAME"]}"}}')
    (series,) = json.loads(guarded.ask(f"/api/v1/query?query={query}"))["data"]["result"]
    assert 6 == float(series["value"][1])
