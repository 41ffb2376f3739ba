"""One top-level package: everything is imported as `nextclick.…`, and what is light stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("services", "shared", "trainer", "bench")
SOURCES = [
    path
    for folder in (*FOLDERS, ".ci", "deploy", "docs", "nextclick", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
TEXTS = [
    *SOURCES,
    *(ROOT / name for name in ("Dockerfile", "Makefile", "pyproject.toml", "docker-compose.yml")),
    *(ROOT / ".ci").iterdir(),
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
STARTED = re.compile(rf"""-m(?:\s+|["'],\s*["'])((?:{"|".join(FOLDERS)})\.[a-z_.]+)""")
"""A module that is started as a program, in a shell or by a list of arguments."""
LIGHT = [
    "nextclick",
    "nextclick.__main__",
    "nextclick.bench.contestants",
    "nextclick.services.cli",
    "nextclick.services.demo.local_servers",
    "nextclick.services.dlq.redrive",
    "nextclick.services.replay.cli",
    "nextclick.services.simulator.publish",
    "nextclick.services.topics.check",
    "nextclick.shared.embedded",
    "nextclick.shared.kafka",
    "nextclick.shared.redis",
    "nextclick.shared.runtime.health",
    "nextclick.shared.runtime.settings",
    "nextclick.shared.stream_metrics",
    "nextclick.shared.windows",
    "nextclick.trainer.collect",
]
"""Modules that commands without a model import. Importing torch takes seconds."""


def imported(source: str) -> Iterator[str]:
    """The modules that a source imports from, by the names that it uses."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def is_bare(module: str) -> bool:
    return module.startswith(".") or module.partition(".")[0] in FOLDERS


def test_everything_is_imported_as_nextclick() -> None:
    assert len(SOURCES) > 300
    assert {
        str(path.relative_to(ROOT)): bare
        for path in SOURCES
        if (bare := [*filter(is_bare, imported(path.read_text()))])
    } == {}


def test_programs_are_started_as_nextclick() -> None:
    assert {
        str(path.relative_to(ROOT)): bare
        for path in TEXTS
        if path != Path(__file__) and (bare := STARTED.findall(path.read_text()))
    } == {}


@pytest.mark.parametrize(
    "source", ["import shared", "from services.worker import loop", "from . import x"]
)
def test_a_bare_import_is_found(source: str) -> None:
    assert any(map(is_bare, imported(source)))


@pytest.mark.parametrize("text", ["python -m bench.http ", '"-m", "services.cli"'])
def test_a_bare_start_is_found(text: str) -> None:
    assert STARTED.search(text)


def test_a_checkout_has_the_folders_in_the_package() -> None:
    for folder in FOLDERS:
        link = ROOT / "nextclick" / folder
        assert link.is_symlink()
        assert link.readlink() == Path("..", folder)


def test_what_is_light_does_not_import_torch() -> None:
    code = f"import {', '.join(LIGHT)}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_waits_for_no_settings_and_no_schemas() -> None:
    """Of 0.35 s for --help they took 0.15 s: pydantic builds a model of each as it is imported."""
    heavy = ("nextclick.shared.runtime.settings", "pydantic", "numpy", "pandas")
    code = f"import nextclick.__main__, sys; sys.exit(any(m in sys.modules for m in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
