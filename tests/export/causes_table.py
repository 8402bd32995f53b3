"""The table of causes in the guide."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "backends.md"


def documented() -> dict[str, str]:
    """Return what the guide says: cause -> what to change."""
    section = GUIDE.read_text().partition("## When the backend is away")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    return {reason: remedy for _, reason, remedy in rows if not reason.startswith("cause")}
