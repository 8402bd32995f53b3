"""How an exception is recorded: once per span, cut to a size, never failing because ``str(error)`` does.

``OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN`` = ``logs`` or ``logs/dup`` puts it on the log event, instead of or besides
the span.
"""

from __future__ import annotations

import traceback
from typing import Any

from crucible_otel.events.outcome import Reported, type_name
from crucible_otel.events.sanitize import utf8
from crucible_otel.semconv.names import EXCEPTION_MESSAGE, EXCEPTION_STACKTRACE, EXCEPTION_TYPE

_MESSAGE, _STACK = 4096, 32_768


def message(error: BaseException) -> str:
    """Return the text of an exception, cut; never raises."""
    try:
        return utf8(str(error)[:_MESSAGE])
    except Exception:
        return "(no text)"


def described(error: BaseException) -> dict[str, Any]:
    """Return the ``exception.*`` attributes of an exception; the end of a long stack trace is kept."""
    if isinstance(error, Reported):
        return {EXCEPTION_TYPE: error.kind, EXCEPTION_MESSAGE: message(error)}
    try:
        stack = utf8("".join(traceback.format_exception(type(error), error, error.__traceback__))[-_STACK:])
    except Exception:
        stack = ""
    return {EXCEPTION_TYPE: type_name(error), EXCEPTION_MESSAGE: message(error), EXCEPTION_STACKTRACE: stack}
