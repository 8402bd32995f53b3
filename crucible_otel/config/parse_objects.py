"""Parsers of what lives outside the text of a setting: files, installed plug-ins, the user's own objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from crucible_otel.config.parse import Parser, ensure, string

__all__ = ["file", "installed", "installed_list", "instance", "instances", "path"]


def path() -> Parser[str]:
    """The path of a file, which need not exist."""

    def check(value: object) -> str:
        taken = os.fspath(value)  # type: ignore[call-overload]  # raises TypeError for what is no path
        ensure(string(taken).strip() and "\0" not in taken)
        return str(taken)

    return Parser(accepted="the path of a file", check=check, read=check)


def file() -> Parser[str]:
    """The path of a file that exists and can be read."""
    plain = path()

    def check(value: object) -> str:
        taken = plain.check(value)
        ensure(os.path.isfile(taken) and os.access(taken, os.R_OK))
        return taken

    return Parser(accepted="the path of a file that can be read", check=check, read=check)


def installed(group: str, what: str, *known: str, fold: bool = False) -> Parser[str]:
    """The name of an installed plug-in, found by entry point; ``known`` ones (``fold``: in any case) need none."""

    def check(value: object) -> str:
        taken = string(value)
        ensure(taken and ((taken.lower() if fold else taken) in known or _is_installed(group, taken)))
        return taken

    listed = f"{', '.join(known)} or " if known else ""
    return Parser(accepted=f"{listed}the name of an installed {what}", check=check, read=check)


def installed_list(group: str, what: str, *known: str) -> Parser[tuple[str, ...]]:
    """Names of installed plug-ins, see :func:`installed`."""
    one = installed(group, what, *known)

    def check(value: object) -> tuple[str, ...]:
        return tuple(one.check(each.strip()) for each in string(value).split(",") if each.strip())

    return Parser(accepted=f"{one.accepted}, several separated by commas", check=check, read=check)


def _is_installed(group: str, name: str) -> bool:
    from importlib.metadata import entry_points  # here because it is slow to import and seldom needed

    return bool(entry_points(group=group, name=name))


def instance(*methods: str) -> Parser[object]:
    """An object (not a class) that has ``methods``."""

    def check(value: object) -> object:
        ensure(not isinstance(value, type) and all(callable(getattr(value, each, None)) for each in methods))
        return value

    spelled = " and ".join(f"{each}()" for each in methods)
    return Parser(accepted=f"an instance (not a class) with {spelled}", check=check, read=_no_text)


def instances(what: str) -> Parser[tuple[object, ...]]:
    """A sequence of objects."""

    def check(value: object) -> tuple[object, ...]:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise TypeError
        ensure(not any(each is None or isinstance(each, (str, bytes, int, float, type)) for each in value))
        return tuple(value)

    return Parser(accepted=f"a sequence of {what}", check=check, read=_no_text)


def _no_text(value: str) -> Any:
    raise ValueError
