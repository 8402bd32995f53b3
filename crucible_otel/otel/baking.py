"""Compiles a function whose helpers are constants of its code.

Between two training steps nothing is in the caches. A global costs the look into a table that has to be fetched from
memory first, a cell the same for each of them; the constants of a function lie side by side.

One thread compiles at a time. Python up to 3.12 counts the depth of syntax trees for all threads together and raises a
``SystemError`` when that does not come out even (python/cpython#106905), which the program's own threads can cause too.
"""

from __future__ import annotations

import ast
import os
import threading
import warnings
from collections.abc import Mapping
from types import CodeType
from typing import Any

_TRIES = 100
_lock = threading.RLock()


def baked(source: str, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Execute source in which some names stand for constants.

    Args:
        source: Python; none of the names is assigned to.
        name: Stands for its file name.
        values: Name -> any object.

    Returns:
        The namespace the source made.
    """
    with _lock:
        for _ in range(_TRIES):
            try:
                return _compiled(source, name, values)
            except SystemError:  # another thread of the program's was at it
                pass
        return _compiled(source, name, values)


def _compiled(source: str, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    marks = {f"\0{key}": value for key, value in values.items()}
    tree = _Marking(values).visit(ast.parse(source, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # the compiler takes the marks for texts that are called
        code = compile(ast.fix_missing_locations(tree), name, "exec")
    scope: dict[str, Any] = {}
    exec(_replaced(code, marks), scope)
    return scope


class _Marking(ast.NodeTransformer):
    """Puts a text that stands for the constant in place of each name."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Replace a name that is read."""
        return ast.Constant(f"\0{node.id}") if node.id in self._values else node


def _replaced(code: CodeType, marks: Mapping[str, Any]) -> CodeType:
    def constant(value: Any) -> Any:
        if isinstance(value, CodeType):
            return _replaced(value, marks)
        return marks.get(value, value) if isinstance(value, str) else value

    return code.replace(co_consts=tuple(map(constant, code.co_consts)))


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # whoever held it is not in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
