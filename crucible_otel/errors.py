"""The errors that crucible_otel raises, all of them at set-up or registration.

    CrucibleOtelError
    ├── ConfigurationError (ValueError)      a setting that cannot be used
    ├── MissingExtraError (ImportError)      an optional dependency is not installed
    ├── DuplicateHandlerError (ValueError)   the handler id is taken
    ├── UnknownHandlerError (LookupError)    no such handler kind or id
    └── UnknownNameError (LookupError)       a name that the semantic conventions do not have

At run time nothing here is raised into user code: what goes wrong is counted instead.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "ConfigurationError",
    "CrucibleOtelError",
    "DuplicateHandlerError",
    "MissingExtraError",
    "UnknownHandlerError",
    "UnknownNameError",
]


class CrucibleOtelError(Exception):
    """Base of every error of this package."""


class ConfigurationError(CrucibleOtelError, ValueError):
    """A setting that cannot be used.

    Attributes:
        field: The ``Settings`` field or environment variable at fault.
        value: What was given.
        accepted: What would be accepted, in words.
    """

    def __init__(self, field: str, value: object, accepted: str) -> None:
        self.field, self.value, self.accepted = field, value, accepted
        super().__init__(f"{field}={value!r} is not usable; accepted: {accepted}")


class MissingExtraError(CrucibleOtelError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        extra: The extra of this package that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} is not installed; run: pip install 'crucible-otel[{extra}]'")


class DuplicateHandlerError(CrucibleOtelError, ValueError):
    """A handler with this id is attached already; it stays attached.

    Attributes:
        handler_id: The id that is taken.
    """

    def __init__(self, handler_id: str) -> None:
        self.handler_id = handler_id
        super().__init__(
            f"handler {handler_id!r} is attached already; detach it first, pass replace=True, or choose another id"
        )


class UnknownHandlerError(CrucibleOtelError, LookupError):
    """No handler kind of this name.

    Attributes:
        kind: What was asked for.
        known: The kinds that exist.
    """

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        self.kind, self.known = kind, tuple(sorted(known))
        super().__init__(f"unknown handler kind {kind!r}; there are: {', '.join(self.known)}")

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownNameError(CrucibleOtelError, LookupError):
    """A name that the semantic conventions do not have.

    Attributes:
        name: What was asked for.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name!r} is not a name of the semantic conventions")
