"""What a field of ``Settings`` declares about itself, once: everything else is derived from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from crucible_otel.config.parse import Parser

__all__ = ["PREFIX", "UNSET", "Setting", "Unset", "setting"]

PREFIX: Final = "CRUCIBLE_OTEL_"
METADATA_KEY: Final = "setting"


class Unset(Enum):
    """The type of :data:`UNSET`; an enum, so that there is one of it even after pickling."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "<from the environment>"

    def __bool__(self) -> bool:
        return False


UNSET: Final = Unset.UNSET
"""Stands in a ``Settings`` that is not resolved for a field that was not given."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of ``Settings``.

    Attributes:
        parser: How it is taken, what it accepts and what of it may be shown.
        doc: One sentence, Markdown.
        default: What holds when nothing says otherwise. A field whose default is None is not given by None.
        otel: The ``OTEL_*`` variables it falls back to, first set one first.
        since: The version that brought it.
        secret: Whether its value must never be shown.
        in_environment: Whether it has a variable of its own.
        resource_key: The resource attribute that stands in for it, on each level of precedence.
        merged: Whether the levels of precedence are merged by key instead of the first one winning.
        quiet_unless: Fields and variables of which one must be given for the default to hold inside pytest.
        quiet_exporter: The field with the user's own exporter, for which alone the default inside pytest is ``otlp``.
        in_pytest: The default inside pytest, where it is another and no exporter's.
    """

    parser: Parser[Any]
    doc: str
    default: object
    otel: tuple[str, ...] = ()
    since: str = "0.1.0"
    secret: bool = False
    in_environment: bool = True
    resource_key: str = ""
    merged: bool = False
    quiet_unless: tuple[str, ...] = ()
    quiet_exporter: str = ""
    in_pytest: object = None

    def is_given(self, value: object) -> bool:
        """Whether ``value`` was given as an argument."""
        return value is not UNSET and not (value is None and self.default is None)


def setting(parser: Parser[Any], *, default: object, doc: str, **more: Any) -> Any:
    """Declare a field; the type is the one it is annotated with."""
    declared = Setting(parser=parser, default=default, doc=doc, **more)
    return field(default=None if default is None else UNSET, metadata={METADATA_KEY: declared})


def variable(name: str) -> str:
    """Return the environment variable of the field ``name``."""
    return PREFIX + name.upper()
