"""Print the oldest admitted version of what the package stands on, as pip constraints.

That is every runtime dependency and the extra for OpenTelemetry's configuration file. The demo's libraries are left
out: their oldest releases exist for a few Pythons only. Read from the installed metadata, because the standard library
parses TOML only from Python 3.11 on.
"""

from __future__ import annotations

import re
from importlib.metadata import requires

EXTRA = "config-file"


def floors() -> list[str]:
    """Return ``name==floor`` for each of them."""
    lines = []
    for dependency in requires("crucible-otel") or ():
        requirement, _, marker = dependency.partition(";")
        if marker and EXTRA not in marker:
            continue
        match = re.fullmatch(r"([a-z0-9-]+)>=([0-9a-z.]+)", requirement.replace(" ", ""))
        if match is None:
            raise SystemExit(f"{requirement!r} is not of the form name>=floor")
        lines.append("{}=={}".format(*match.groups()))
    return lines


if __name__ == "__main__":
    print("\n".join(floors()))
