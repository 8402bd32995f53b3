"""Secrets stay out of everything that is shown."""

from __future__ import annotations

import logging
import pprint
import traceback

import pytest

from crucible_otel.config.masking import MaskedHeaders, mask_url
from crucible_otel.config.otel_env import OTEL_VARIABLES
from crucible_otel.config.settings import SETTINGS, Settings
from crucible_otel.errors import ConfigurationError

SECRET = "hunter2"
HEADER_VARIABLES = ("CRUCIBLE_OTEL_HEADERS", *(name for name in OTEL_VARIABLES if name.endswith("_HEADERS")))
ENDPOINT_VARIABLES = ("CRUCIBLE_OTEL_ENDPOINT", *(name for name in OTEL_VARIABLES if name.endswith("_ENDPOINT")))


class Exporter:
    """An exporter that shows its token."""

    def export(self, batch: object) -> None:
        """Export nothing."""

    def shutdown(self) -> None:
        """Shut nothing down."""

    def __repr__(self) -> str:
        return f"Exporter(token={SECRET})"


def everything_shown(error: ConfigurationError) -> str:
    """All that a log, a traceback or a debugger's first look shows of an error."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return f"{error}{error!r}{error.value!r}{error.accepted}{error.args}{error.__cause__}{''.join(lines)}"


@pytest.mark.parametrize("name", HEADER_VARIABLES)
@pytest.mark.parametrize(
    "bad",
    [
        f"Bearer {SECRET}",
        f"{SECRET}é=x",
        f"k={SECRET}%0ax",
        f"k={SECRET}\x00",
        f'k="{SECRET}"',
        f"k=Bearer {SECRET};v=1",
        f"k={SECRET}\\n",
    ],
)
def test_bad_header_variable_does_not_show_its_value(name: str, bad: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where the SDK would log the header in full, the error masks it."""
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError) as caught:
        Settings().resolve({name: bad})
    assert name == caught.value.field
    assert SECRET not in everything_shown(caught.value) + caplog.text


@pytest.mark.parametrize("name", ENDPOINT_VARIABLES)
@pytest.mark.parametrize(
    "bad", [f"http://me:{SECRET}@", f"me:{SECRET}@host:1", f"ftp://h?token={SECRET}", f"http://me:a/{SECRET}@h:x/"]
)
def test_bad_endpoint_variable_does_not_show_user_or_query(name: str, bad: str) -> None:
    """User information and query may hold tokens."""
    with pytest.raises(ConfigurationError) as caught:
        Settings().resolve({name: bad})
    assert name == caught.value.field
    assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"headers": SECRET},
        {"headers": [("k", SECRET)]},
        {"headers": {"k": SECRET + "\nx"}},
        {"headers": {SECRET: 1}},
        {"endpoint": f"me:{SECRET}@host"},
        {"endpoint": f"me:{SECRET}@host".encode()},
        {"span_exporter": type("Broken", (), {"__repr__": lambda self: SECRET})()},
        {"views": [Exporter(), None]},
        {"resource_attributes": {"k": Exporter()}},
    ],
)
def test_bad_argument_does_not_show_a_secret(given: dict[str, object]) -> None:
    """Neither a header, nor user information, nor the repr of an object of the user's."""
    with pytest.raises(ConfigurationError) as caught:
        Settings(**given)  # type: ignore[arg-type]
    shown = f"{caught.value}{caught.value!r}{caught.value.value!r}"
    assert SECRET not in shown


def test_settings_show_no_secret() -> None:
    """Settings can be logged, printed and formatted, resolved or not."""
    settings = Settings(
        endpoint=f"http://me:{SECRET}@h/p?k={SECRET}",
        headers={"k": SECRET},
        span_exporter=Exporter(),
        views=[Exporter()],
    )
    for each in (settings, settings.resolve({}), Settings().resolve({"OTEL_EXPORTER_OTLP_HEADERS": f"k={SECRET}"})):
        assert (
            SECRET
            not in f"{each} {each!r} {[each]} {pprint.pformat(each)} {each.headers} {pprint.pformat(each.headers)}"
        )
    assert (
        "endpoint='http://***@h/p?***', headers={'k': '***'}, views=('<Exporter>',), span_exporter='<Exporter>'"
        in repr(settings)
    )
    assert SECRET == settings.headers["k"]


def test_secret_fields_mask_what_they_show() -> None:
    """A field that is declared secret shows nothing of a raw value."""
    secrets = [name for name, each in SETTINGS.items() if each.secret]
    assert ["headers"] == secrets
    assert {"***"} == {SETTINGS[name].parser.show(SECRET) for name in secrets}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:4318", "http://localhost:4318"),
        ("http://a:b@c:1/d", "http://***@c:1/d"),
        ("a:b@c:1", "***@c:1"),
        ("https://a:b@c@d/e", "https://***@d/e"),
        ("http://a/b?c=d#e", "http://a/b?***"),
    ],
)
def test_masked_url_keeps_host_and_path(url: str, expected: str) -> None:
    """What helps to see a mistake stays."""
    assert expected == mask_url(url)


def test_masked_headers_are_a_dict_that_hides_its_values() -> None:
    """What sends them sees them."""
    assert {"k": SECRET} == MaskedHeaders(k=SECRET)
    assert "{'k': '***'}" == repr(MaskedHeaders(k=SECRET))
