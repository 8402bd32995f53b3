"""Print the public names, one a line: what is in ``__all__`` of the front door and of the modules it opens onto.

A module is public when the front door lists it, when a public module lists it, or when it stands in ``DOORS``.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

ROOT = "crucible_otel"

# Reached by their dotted path, whether the front door lists them or not.
DOORS = ("errors", "semconv", "testing")


def public_modules() -> Iterator[ModuleType]:
    """Yield every public module once, the front door first."""
    waiting = [importlib.import_module(ROOT), *(importlib.import_module(f"{ROOT}.{door}") for door in DOORS)]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop(0)
        if module.__name__ in seen:
            continue
        seen.add(module.__name__)
        yield module
        listed = (getattr(module, name) for name in getattr(module, "__all__", ()))
        waiting += [each for each in listed if isinstance(each, ModuleType) and each.__name__.startswith(f"{ROOT}.")]


def public_names() -> list[str]:
    """Return the dotted public names, sorted."""
    return sorted(
        {f"{module.__name__}.{name}" for module in public_modules() for name in getattr(module, "__all__", ())}
    )


if __name__ == "__main__":
    print("\n".join(public_names()))
