"""Rendering the reference of the settings and variables."""

from __future__ import annotations

from collections.abc import Iterator

from crucible_otel.config.declare import Setting, variable
from crucible_otel.config.otel_env import OTEL_VARIABLES, OtelVariable
from crucible_otel.config.settings import SETTINGS

__all__ = ["render"]

_HEAD = """\
<!-- Generated from crucible_otel/config; do not edit. -->
# Configuration

`configure()` needs no setting. What you give counts in this order: argument of `Settings`, `CRUCIBLE_OTEL_*` variable,
`OTEL_*` variable, default. One exception: `OTEL_TRACES_SAMPLER` wins over `sample_rate`. An empty variable is as good
as none. A value that cannot be used stops `configure()` with a `ConfigurationError` that names the variable or field,
the value and what is accepted; an unknown `CRUCIBLE_OTEL_*` variable only draws a warning.

The variables of one signal (`<SIGNAL>` is TRACES, METRICS or LOGS) win over the `OTEL_*` variables for all signals, and
lose to an argument or `CRUCIBLE_OTEL_*` variable. Headers are secrets: neither they nor the user information of an
endpoint are ever shown.

"""
_COLUMNS = ("Variable", "Field of `Settings`", "Default", "Accepted", "Meaning", "Since")


def render() -> str:
    """Return the reference as Markdown: one table of every variable and field."""
    rows = [_COLUMNS, tuple("---" for _ in _COLUMNS), *_rows()]
    return _HEAD + "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _rows() -> Iterator[tuple[str, ...]]:
    for name, setting in SETTINGS.items():
        yield _own_row(name, setting)
    fields = {each: name for name, setting in SETTINGS.items() for each in setting.otel}
    seen: set[str] = set()
    for otel in OTEL_VARIABLES.values():
        listed = otel.listed_as or otel.name
        if listed not in seen:
            seen.add(listed)
            yield _otel_row(listed, otel, fields.get(otel.name, ""))


def _own_row(name: str, setting: Setting) -> tuple[str, ...]:
    own = f"`{variable(name)}`" if setting.in_environment else "(argument only)"
    meaning = setting.doc
    if setting.otel:
        meaning += f" Falls back to {', '.join(f'`{each}`' for each in setting.otel)}."
    return own, f"`{name}`", _default(setting.default), setting.parser.accepted, meaning, setting.since


def _otel_row(listed: str, otel: OtelVariable, field: str) -> tuple[str, ...]:
    return f"`{listed}`", f"`{field}`" if field else "", otel.default, otel.parser.accepted, otel.doc, ""


def _default(value: object) -> str:
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
