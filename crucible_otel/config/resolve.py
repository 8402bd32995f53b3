"""Filling in what was not given: argument > ``CRUCIBLE_OTEL_*`` > ``OTEL_*`` > default."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from crucible_otel.config import otel_check, otel_env
from crucible_otel.config.declare import PREFIX, Setting, variable
from crucible_otel.config.parse import read_variable
from crucible_otel.errors import ConfigurationError

__all__ = ["ARGUMENT", "DEFAULT", "inside_pytest", "resolve"]

ARGUMENT: Final = "argument"
DEFAULT: Final = "default"

_Found = tuple[str, Any]
"""Where a value comes from (argument, default or the name of a variable), and the value."""
_Level = Callable[[str, Setting], "_Found | None"]

_NONE: Final = ("none",)
_OTLP: Final = ("otlp",)

_logger = logging.getLogger(__name__)


def inside_pytest(environ: Mapping[str, str]) -> bool:
    """Whether this process, or the one that started it, is a test run of pytest."""
    return "PYTEST_CURRENT_TEST" in environ or "PYTEST_VERSION" in environ


def resolve(settings: Mapping[str, Setting], given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, _Found]:
    """Return every field's value with its source.

    A program that has telemetry switched off is not stopped by a variable that only telemetry reads.

    Args:
        settings: The declared fields.
        given: The arguments, checked already.
        environ: The environment.

    Raises:
        ConfigurationError: A variable cannot be used, or values do not go together.
    """
    _warn_of_unknown(settings, environ)
    strict = (_argument(given), _own(environ), _otel(environ))
    enabled = _first("enabled", settings, strict) or (DEFAULT, settings["enabled"].default)
    levels = strict if enabled[1] else tuple(_lenient(level) for level in strict)
    found = {name: _first(name, settings, levels) for name in settings}
    filled = {name: found[name] or (DEFAULT, _default(each, found, environ)) for name, each in settings.items()}
    _drop_represented(settings, filled)
    if enabled[1]:
        _check_together(settings, filled, environ)
    return filled


def _argument(given: Mapping[str, Any]) -> _Level:
    return lambda name, _: (ARGUMENT, given[name]) if name in given else None


def _own(environ: Mapping[str, str]) -> _Level:
    def level(name: str, setting: Setting) -> _Found | None:
        source = variable(name)
        text = environ.get(source, "").strip() if setting.in_environment else ""
        return (source, read_variable(source, text, setting.parser)) if text else None

    return level


def _otel(environ: Mapping[str, str]) -> _Level:
    def level(_: str, setting: Setting) -> _Found | None:
        read = ((source, otel_env.read(source, environ)) for source in setting.otel)
        return next((each for each in read if each[1] is not None), None)

    return level


def _lenient(level: _Level) -> _Level:
    def lenient(name: str, setting: Setting) -> _Found | None:
        try:
            return level(name, setting)
        except ConfigurationError:
            return None

    return lenient


def _first(name: str, settings: Mapping[str, Setting], levels: Iterable[_Level]) -> _Found | None:
    setting = settings[name]
    candidates = (_at(level, name, settings) for level in levels)
    if not setting.merged:
        return next((each for each in candidates if each), None)
    present = [each for each in candidates if each]
    merged = {key: value for _, pairs in reversed(present) for key, value in pairs.items()}
    return (present[0][0], merged) if present else None


def _at(level: _Level, name: str, settings: Mapping[str, Setting]) -> _Found | None:
    setting = settings[name]
    found = level(name, setting)
    if found or not setting.resource_key:
        return found
    attributes = level("resource_attributes", settings["resource_attributes"])
    value = attributes[1].get(setting.resource_key) if attributes else None
    return (attributes[0], value) if attributes and value else None


def _default(setting: Setting, found: Mapping[str, _Found | None], environ: Mapping[str, str]) -> Any:
    if not inside_pytest(environ):
        return setting.default
    if not setting.quiet_unless:
        return setting.default if setting.in_pytest is None else setting.in_pytest
    if any(found.get(each) or environ.get(each, "").strip() for each in setting.quiet_unless):
        return setting.default
    return _OTLP if found[setting.quiet_exporter] else _NONE


def _drop_represented(settings: Mapping[str, Setting], filled: dict[str, _Found]) -> None:
    """Leave no resource attribute that a field of its own already says, perhaps otherwise."""
    represented = {each.resource_key for each in settings.values()}
    source, attributes = filled["resource_attributes"]
    filled["resource_attributes"] = source, {key: value for key, value in attributes.items() if key not in represented}


def _check_together(settings: Mapping[str, Setting], filled: Mapping[str, _Found], environ: Mapping[str, str]) -> None:
    def blamed(name: str) -> str:
        source = filled[name][0]
        return name if source in (ARGUMENT, DEFAULT) else source

    general = otel_check.General(
        protocol=filled["protocol"][1],
        protocol_wins=filled["protocol"][0] in (ARGUMENT, variable("protocol")),
        compression=filled["compression"][1],
        endpoint=filled["endpoint"][1] or "",
    )
    if general.protocol == "grpc" and general.compression == "deflate":
        raise ConfigurationError(blamed("compression"), "deflate", "gzip or none, because the protocol is grpc")
    otel_check.check_endpoint(blamed("endpoint"), general.endpoint, general.protocol)
    if "jsonl" in filled["handlers"][1] and not filled["jsonl_path"][1]:
        raise ConfigurationError(blamed("jsonl_path"), None, "the path of a file, because handlers names jsonl")
    overridable = frozenset(name for each in settings.values() for name in each.otel)
    otel_check.check_all(environ, general=general, overridable=overridable)


def _warn_of_unknown(settings: Mapping[str, Setting], environ: Mapping[str, str]) -> None:
    known = [variable(name) for name, each in settings.items() if each.in_environment]
    for name in sorted(each for each in environ if each.startswith(PREFIX) and each not in known):
        closest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
        _logger.warning("%s is not a variable of crucible_otel and changes nothing; the closest is %s", name, closest)
