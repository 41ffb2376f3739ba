"""The Grafana dashboard fits the types that Grafana generates from its schemas, which are Go's."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.test_clients import BUILD_SECONDS, need

CHECKER = Path(__file__).parent / "grafana"
DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "nextclick.json"

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def checker() -> None:
    need("go")
    subprocess.run(
        ["go", "build", "-o", "build/", "."], cwd=CHECKER, check=True, timeout=BUILD_SECONDS
    )


def check(dashboard: Path) -> subprocess.CompletedProcess[str]:
    command = ["build/dashboard", str(dashboard)]
    return subprocess.run(
        command, cwd=CHECKER, capture_output=True, text=True, timeout=60, check=False
    )


def test_our_dashboard_fits() -> None:
    checked = check(DASHBOARD)
    assert checked.returncode == 0, checked.stderr
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert checked.stdout == f"{len(panels)} panels\n"
    assert {panel["type"] for panel in panels} == {"row", "stat", "timeseries"}, (
        "main.go knows them"
    )


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda board: board.update(reload="5s"), "reload"),
        (lambda board: board["panels"][0].pop("collapsed"), "panels[0].collapsed"),
        (lambda board: board["panels"][1].update(options={"colour": "red"}), "colour"),
        (lambda board: board["panels"][1]["targets"][0].update(query="up"), "query"),
        (lambda board: board["panels"][1]["gridPos"].update(w=25), "gridPos.w"),
    ],
    ids=["a field", "a row", "an option of a panel", "a query", "a width"],
)
def test_an_error_is_found(spoil: Callable[[Any], Any], where: str, tmp_path: Path) -> None:
    wrong = copy.deepcopy(json.loads(DASHBOARD.read_text()))
    spoil(wrong)
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    checked = check(tmp_path / "wrong.json")
    assert checked.returncode == 1
    assert where in checked.stderr
