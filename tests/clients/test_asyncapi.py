"""docs/asyncapi.json is one for AsyncAPI's own parser, which is JavaScript."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.clients.test_clients import BUILD_SECONDS, NPM_INSTALL, need

CHECKER = Path(__file__).parent / "asyncapi"
DOCUMENT = Path(__file__).parents[2] / "docs" / "asyncapi.json"

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def parser() -> None:
    need("npm", "node")
    subprocess.run(NPM_INSTALL.split(), cwd=CHECKER, check=True, timeout=BUILD_SECONDS)


def check(document: Path) -> subprocess.CompletedProcess[str]:
    command = ["node", "check.js", str(document)]
    return subprocess.run(
        command, cwd=CHECKER, capture_output=True, text=True, timeout=60, check=False
    )


def test_our_document_has_neither_errors_nor_warnings() -> None:
    checked = check(DOCUMENT)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_error_is_found(tmp_path: Path) -> None:
    wrong = json.loads(DOCUMENT.read_text())
    wrong["channels"]["clicks"]["bindings"]["kafka"]["replicas"] = -1
    schemas = tmp_path / "schemas"
    schemas.symlink_to(DOCUMENT.parent / "schemas")
    (tmp_path / "asyncapi.json").write_text(json.dumps(wrong))
    checked = check(tmp_path / "asyncapi.json")
    assert checked.returncode == 1
    assert "channels.clicks.bindings.kafka.replicas" in checked.stdout
