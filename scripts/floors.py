"""Print the oldest admitted version of each runtime dependency, as pip constraints.

Read from the installed metadata, because the standard library parses TOML only from Python 3.11 on.
"""

from __future__ import annotations

import re
from importlib.metadata import requires


def floors() -> list[str]:
    """Return ``name==floor`` for every runtime dependency."""
    lines = []
    for requirement in requires("crucible-otel") or ():
        if "extra ==" in requirement:
            continue
        match = re.fullmatch(r"([a-z0-9-]+)>=([0-9a-z.]+)", requirement.replace(" ", ""))
        if match is None:
            raise SystemExit(f"{requirement!r} is not of the form name>=floor")
        lines.append("{}=={}".format(*match.groups()))
    return lines


if __name__ == "__main__":
    print("\n".join(floors()))
