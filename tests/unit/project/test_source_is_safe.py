"""What must not stand in the source: ways in which data become code."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OURS = ("bench", "docs", "nextclick", "services", "shared", "trainer")
SOURCES = [path for folder in OURS for path in sorted((ROOT / folder).rglob("*.py"))]

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"}
UNSAFE_MODULES |= {"marshal", "yaml", "code", "codeop"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.load",
    "torch.save",
}
UNSAFE_CALLS |= {"torch.jit.load", "torch.package.PackageImporter", "yaml.load"}
UNSAFE_CALLS |= {"pd.read_pickle", "pandas.read_pickle", "subprocess.getoutput"}
UNSAFE_KEYWORDS = {("shell", "True"), ("allow_pickle", "True"), ("weights_only", "False")}
UNSAFE_KEYWORDS |= {("trust_remote_code", "True")}
UNSAFE_METHODS = {"to_pickle", "read_pickle"}


def found_in(source: str) -> Iterator[str]:
    """Everything unsafe in a piece of source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            yield from (n for n in names if n.split(".")[0] in UNSAFE_MODULES or n in UNSAFE_CALLS)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in UNSAFE_CALLS or called.rpartition(".")[2] in UNSAFE_METHODS:
                yield called
            for keyword in node.keywords:
                value = str(getattr(keyword.value, "value", None))
                if (keyword.arg, value) in UNSAFE_KEYWORDS:
                    yield f"{keyword.arg}={value}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_turns_data_into_code(path: Path) -> None:
    assert list(found_in(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "from torch import load",
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "np.load(f, allow_pickle=True)",
        "frame.to_pickle(f)",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert list(found_in(source))


@pytest.mark.parametrize(
    "source", ["model.eval()", "re.compile('x')", "np.load(f)", "safetensors.torch.load(b)"]
)
def test_the_search_leaves_alone(source: str) -> None:
    assert list(found_in(source)) == []


def test_the_bill_lists_what_pyproject_asks_for() -> None:
    bill = (ROOT / "docs" / "bill-of-materials.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for dependency in project["dependencies"]:
        name = re.split(r"[\[<>=!~ ]", dependency)[0]
        assert f"\n| {name} | " in bill.replace("_", "-"), f"{name}: run `make bill`"
