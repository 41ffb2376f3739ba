"""`pip install nextclick` brings what a worker needs; each extra is named where it is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nextclick.services.cli import errors_as_one_line
from nextclick.shared.runtime.extras import EXTRAS

PROJECT = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
WITHOUT_EXTRAS = [
    "nextclick.__main__",
    "nextclick.interface.recommender",
    "nextclick.interface.streams",
    "nextclick.services.cli.explain",
    "nextclick.services.dlq.redrive",
    "nextclick.services.topics.check",
    "nextclick.services.worker.main",
    "nextclick.services.worker.rebuild",
]
BLOCK = f"""
import importlib, importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {[m for modules in EXTRAS.values() for m in modules]!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def without_extras(code: str) -> subprocess.CompletedProcess[str]:
    """Run code as if no package of an extra were installed."""
    command = [sys.executable, "-c", BLOCK + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


OTHER_NAMES = {"protobuf": "google", "confluent-kafka": "authlib"}
"""Package → its module, if that is called otherwise; for a package that is required anyway a module
that its own extra brings."""


def modules_of(extra: str) -> set[str]:
    names = [Requirement(text).name for text in PROJECT["optional-dependencies"][extra]]
    modules = {OTHER_NAMES.get(name, name).replace("-", "_") for name in names}
    # OpenTelemetry's packages share one namespace.
    return {"opentelemetry" if name.startswith("opentelemetry_") else name for name in modules}


def test_the_modules_are_those_of_the_extras() -> None:
    assert {extra: modules_of(extra) for extra in EXTRAS} == {e: {*m} for e, m in EXTRAS.items()}
    required = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert required.isdisjoint(module for modules in EXTRAS.values() for module in modules)


def test_a_worker_needs_no_extra() -> None:
    code = f"for name in {WITHOUT_EXTRAS!r}: importlib.import_module(name)"
    done = without_extras(code)
    assert done.returncode == 0, done.stderr


COMMANDS = {
    "api": (["api"], "pip install 'nextclick[api]'"),
    "trainer": (["trainer", "--once"], "pip install 'nextclick[train]'"),
    "evaluate": (["evaluate", "missions"], "pip install 'nextclick[train]'"),
    "replay": (["replay", __file__], "pip install 'nextclick[train]'"),
    "simulate": (["simulate", "--log", "x.parquet"], "pip install 'nextclick[train]'"),
    "demo": (["demo"], "pip install 'nextclick["),
}
"""Arguments, and the remedy."""
RUN_ALL = f"""
import contextlib, io, json
from nextclick.__main__ import main

ended = {{}}
for name, (arguments, _) in {COMMANDS!r}.items():
    sys.argv = ["nextclick", *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as output:
        try:
            main()
        except SystemExit as end:
            ended[name] = (end.code, output.getvalue())
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def ended() -> dict[str, tuple[int, str]]:
    """Exit code and stderr of each command, all in one process: torch takes seconds to import."""
    done = without_extras(RUN_ALL)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_which_extra_it_needs(
    command: str, ended: dict[str, tuple[int, str]]
) -> None:
    code, output = ended[command]
    assert code == 2
    (line,) = output.splitlines()
    assert "is not installed: " in line
    assert COMMANDS[command][1] in line


def test_so_does_the_interface() -> None:
    done = without_extras("import nextclick; nextclick.fit")
    assert "ConfigurationError: " in done.stderr
    assert done.stderr.endswith("is not installed: pip install 'nextclick[train]'\n")


def test_another_missing_module_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError), errors_as_one_line():
        import nextclick.no_such_module  # noqa: F401
