"""Every command in the runbook and the operations page is one that there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from services.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "runbook.md", ROOT / "docs" / "operations.md"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OBJECTS = [
    thing
    for path in (ROOT / "deploy" / "k8s").rglob("*.yaml")
    for thing in yaml.safe_load_all(path.read_text())
]


def said() -> list[str]:
    """Code in blocks, a line each, and code in sentences."""
    lines: list[str] = []
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        code = [*blocks, *re.findall(r"`([^`]+)`", rest)]
        lines += [line for part in code for line in part.replace("\\\n", " ").split("\n")]
    return lines


def commands(program: str) -> list[list[str]]:
    """The words of every command that begins with this program."""
    found = []
    for line in said():
        words = shlex.split(line.partition("  #")[0])
        for joint in [n for n, word in enumerate(words) if word in ("|", "&&")][::-1]:
            found.append(words[joint + 1 :])
            words = words[:joint]
        found.append(words)
    begins = program.split()
    return [words for words in found if words[: len(begins)] == begins and words != begins]


@pytest.mark.parametrize("words", commands("nextclick"), ids=" ".join)
def test_a_command_of_nextclick_is_one(words: list[str]) -> None:
    command = typer.main.get_command(app)
    rest = words[1:]
    while rest and (deeper := getattr(command, "commands", {}).get(rest[0])):
        command, rest = deeper, rest[1:]
    assert not getattr(command, "commands", {}), f"{' '.join(words)}: no command {rest[:1]}"
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= options


@pytest.mark.parametrize("words", commands("docker compose"), ids=" ".join)
def test_a_service_of_compose_is_one(words: list[str]) -> None:
    rest = [word.partition("=")[0] for word in words[2:] if not word.startswith("-")]
    named = {word for word in rest if word.isalpha()}
    verbs = {"up", "ps", "logs", "stop", "start", "run", "observability", "nextclick"}
    assert named - verbs <= COMPOSE.keys()


@pytest.mark.parametrize("words", commands("kubectl"), ids=" ".join)
def test_an_object_of_kubernetes_is_one(words: list[str]) -> None:
    ours = {(t["kind"].lower(), t["metadata"]["name"]) for t in OBJECTS if "metadata" in t}
    kinds = {"deploy": "deployment", "cronjob": "cronjob", "scaledobject": "scaledobject"}
    for kind, name in re.findall(
        r"(deploy|cronjob|scaledobject)[/ ](nextclick-\w+)", " ".join(words)
    ):
        assert (kinds[kind], name) in ours


def test_there_are_commands_to_look_at() -> None:
    assert len(commands("nextclick")) > 10
    assert len(commands("docker compose")) > 5
    assert len(commands("kubectl")) > 10
