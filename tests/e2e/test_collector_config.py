"""The real Collector and the real promtool read the files of ``collector-config/``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.config_files.files import COLLECTORS, CONFIG, collector
from tests.config_files.test_grafana import expressions
from tests.e2e.conftest import Validate
from tests.e2e.servers import promtool


@pytest.mark.parametrize("name", COLLECTORS)
def test_the_collector_accepts_it(name: str, validate: Validate) -> None:
    """With no variable set."""
    assert (0, "") == validate(*(CONFIG / file for file in COLLECTORS[name]))


@pytest.mark.parametrize(
    ("name", "group", "identity"),
    [
        (name, group, identity)
        for name in ("agent", "gateway")
        for group in ("receivers", "processors", "exporters", "connectors", "extensions")
        for identity in collector(name).get(group, {})
    ],
)
def test_the_collector_would_refuse_a_misspelt_key(name: str, group: str, identity: str, validate: Validate) -> None:
    """In each component: what it accepts above is right, not overlooked."""
    status, said = validate(*(CONFIG / file for file in COLLECTORS[name]), {group: {identity: {"misspelt": 1}}})
    assert status != 0
    assert "misspelt" in said


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    """Each as a recording rule, which is how it reads PromQL without a server."""
    rules = [{"record": f"panel:{number}", "expr": expression} for number, (_, expression) in enumerate(expressions())]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    checked = promtool("check", "rules", file)

    assert (0, "") == (checked.returncode, checked.stderr)
    assert f"{len(rules)} rules found" in checked.stdout


def test_promtool_accepts_the_scrape_configuration() -> None:
    """That of the docker compose project."""
    checked = promtool("check", "config", CONFIG / "compose" / "prometheus.yaml")
    assert (0, "") == (checked.returncode, checked.stderr)
