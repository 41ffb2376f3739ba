"""What `make` installs is pinned: `make lock` was run after the last change of pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAIN = ROOT / "requirements.lock"
PEERS = ROOT / "bench" / "peers" / "requirements.lock"
FUZZ = ROOT / "tests" / "fuzz" / "requirements.lock"
OLDEST = ROOT / "tests" / "oldest-clients.lock"
FILES = [MAIN, PEERS, FUZZ, OLDEST, ROOT / "docs" / "audit.lock"]


def pins(file: Path) -> dict[str, list[Version]]:
    """The versions of each package; more than one if Pythons differ."""
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", file.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(Version(version))
    return found


def asked_for(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with these extras."""
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    return [r for r in map(Requirement, texts) if r.name not in ("nextclick", "torch")]


@pytest.mark.parametrize(
    ("file", "requirements"),
    [
        (MAIN, asked_for("embedded", "dev", "api", "report", "s3", "schema-registry", "train")),
        (PEERS, [Requirement(text) for text in EXTRAS["peers"]]),
        (FUZZ, [Requirement(text) for text in EXTRAS["fuzz"]]),
    ],
    ids=["requirements.lock", "peers", "fuzz"],
)
def test_every_requirement_is_locked(file: Path, requirements: list[Requirement]) -> None:
    locked = pins(file)
    for requirement in requirements:
        versions = locked.get(requirement.name.lower().replace("_", "-"), [])
        assert versions, f"{requirement}: run `make lock`"
        for version in versions:
            assert version in requirement.specifier, f"{requirement}: run `make lock`"


def test_the_oldest_clients_are_the_lower_bounds() -> None:
    bounds = {
        requirement.name: [Version(s.version) for s in requirement.specifier if s.operator == ">="]
        for requirement in asked_for()
    }
    locked = pins(OLDEST)
    assert locked.keys() == {"confluent-kafka", "redis"}
    for name, versions in locked.items():
        assert versions == bounds[name], "run `make lock`"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_lock_file_has_a_hash_for_each_version_and_names_no_index(file: Path) -> None:
    text = file.read_text()
    assert "://" not in text
    for line in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip()):
        assert re.match(r"[a-z0-9-]+==\S+( ; .+)? \\\n +--hash=sha256:[0-9a-f]{64}", line), line


def test_what_depends_on_the_build_of_torch_is_left_out() -> None:
    family = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
    for file in FILES:
        assert [name for name in pins(file) if family.fullmatch(name)] == []
