"""What pip installs is one package, which works beside a user's own `services` and `shared`."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("bench", "services", "shared", "trainer")
DATA = (
    "bench/peers/requirements.lock",
    "py.typed",
    "services/api/swagger_ui/LICENSE",
    "services/api/swagger_ui/NOTICE",
    "services/api/swagger_ui/README.md",
    "services/api/swagger_ui/favicon-32x32.png",
    "services/api/swagger_ui/swagger-ui-bundle.js",
    "services/api/swagger_ui/swagger-ui-bundle.js.LICENSE.txt",
    "services/api/swagger_ui/swagger-ui.css",
    "shared/embedded/kafka-jars.toml",
    "shared/redis/sessions.lua",
)
EVERY_MODULE = """
import importlib, pathlib, pkgutil, sys
import nextclick

assert pathlib.Path(nextclick.__file__).parent == pathlib.Path(sys.argv[1]), nextclick.__file__
assert nextclick.__version__
names = [m.name for m in pkgutil.walk_packages(nextclick.__path__, "nextclick.")]
assert len(names) > 200, names
for name in names:
    if name != "nextclick.bench.peers.quix_worker":  # its environment is another one
        importlib.import_module(name)
assert sys.modules.keys().isdisjoint({"bench", "services", "shared", "trainer"})
"""
EVERY_HELP = """
import sys
import typer
from nextclick import __main__

def commands(command, path):
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, [*path, name])

helped = list(commands(typer.main.get_command(__main__.app), ["nextclick"]))
assert len(helped) > 25, helped
for words in helped:
    sys.argv = [*words, "--help"]
    try:
        __main__.main()
    except SystemExit as end:
        assert not end.code, words
"""


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command without what this process's environment says of Python."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environ |= {} if path is None else {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def built(source: Path, hook: str, folder: Path) -> Path:
    """What a hook of the build backend (PEP 517, PEP 660) makes of a source tree."""
    code = f"import sys, hatchling.build; hatchling.build.{hook}(sys.argv[1])"
    folder.mkdir()
    run(sys.executable, "-c", code, folder, cwd=source)
    (made,) = folder.iterdir()
    return made


def installed(wheel: Path, folder: Path) -> Path:
    """An environment with the wheel, and this one's libraries behind it; gives its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    # Their .pth files, one of which names the installation that runs these tests, are not read.
    libraries = [entry for entry in sys.path if entry.endswith("-packages")]
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # First by its name: what an editable wheel has there imports one of them.
    (site_packages / "0-libraries.pth").write_text("\n".join(libraries) + "\n")
    return python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, "build_wheel", tmp_path_factory.mktemp("wheel") / "made")


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(wheel, tmp_path_factory.mktemp("installed") / "venv")


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("editable")
    return installed(built(ROOT, "build_editable", folder / "made"), folder / "venv")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder of somebody who has packages of these names, and does not want them imported."""
    for name in FOLDERS:
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    return tmp_path


def package_of(python: Path) -> Path:
    (found,) = python.parent.parent.glob("lib/python*/site-packages/nextclick")
    return found


def test_a_wheel_holds_one_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "nextclick",
        "-".join(wheel.name.split("-")[:2]) + ".dist-info",
    }
    code = {str(path.relative_to(ROOT)) for f in FOLDERS for path in (ROOT / f).rglob("*.py")}
    ours = (ROOT / "nextclick").glob("*.py"), (ROOT / "nextclick" / "interface").glob("*.py")
    code |= {str(path.relative_to(ROOT / "nextclick")) for path in itertools.chain(*ours)} | {*DATA}
    static = (ROOT / "services" / "api" / "page" / "static").rglob("*")
    code |= {str(path.relative_to(ROOT)) for path in static if path.is_file()}
    assert {f"nextclick/{name}" for name in code} == {n for n in names if "dist-info" not in n}


def test_a_source_distribution_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = built(ROOT, "build_sdist", tmp_path / "made")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    # Python unpacks safely since 3.11.4 only.
    subprocess.run(["tar", "-xzf", source, "-C", unpacked], check=True)
    (tree,) = unpacked.iterdir()
    assert not any((tree / folder).exists() for folder in FOLDERS)
    again = built(tree, "build_wheel", tmp_path / "again")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_it_works_beside_packages_of_the_same_names(python: Path, theirs: Path) -> None:
    run(python, "-c", EVERY_MODULE, package_of(python), cwd=theirs, path=theirs)
    assert "nextclick trainer" in run(python, "-c", EVERY_HELP, cwd=theirs, path=theirs)


@pytest.mark.parametrize("start", [("nextclick",), ("python", "-m", "nextclick")], ids=" ".join)
def test_the_command_starts(python: Path, theirs: Path, start: tuple[str, ...]) -> None:
    command = python.with_name(start[0])
    helped = run(command, *start[1:], "worker", "--help", cwd=theirs, path=theirs)
    assert "nextclick worker" in helped


@pytest.mark.long
def test_so_does_an_editable_install(editable: Path, theirs: Path) -> None:
    run(editable, "-c", EVERY_MODULE, ROOT / "nextclick", cwd=theirs, path=theirs)
    assert "nextclick trainer" in run(editable, "-c", EVERY_HELP, cwd=theirs, path=theirs)
    assert "Usage" in run(editable.with_name("nextclick"), "--help", cwd=theirs, path=theirs)


def test_an_editable_install_offers_nothing_else(editable: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from importlib.util import find_spec as f; print([*filter(f, sys.argv[1:])])"
    )
    assert run(editable, "-c", code, "nextclick", *FOLDERS, cwd=tmp_path) == "['nextclick']\n"
