"""Every command in README and docs is one that there is; a test runs it, or it is said why not."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from nextclick.__main__ import app

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
for log in ("CHANGELOG.md", "docs/experiments.md"):  # what was done, not what to do
    PAGES.remove(ROOT / log)
INTEGRATION = "tests/integration/test_"
RUN_BY = {
    "nextclick api": INTEGRATION + "tutorial.py",
    "nextclick bench collector": INTEGRATION + "bench.py",
    "nextclick bench latency": INTEGRATION + "bench.py",
    "nextclick bench learning": INTEGRATION + "bench.py",
    "nextclick bench peers": INTEGRATION + "peers.py",
    "nextclick bench scale": INTEGRATION + "bench.py",
    "nextclick bench scorer": "tests/unit/bench/test_bench.py",
    "nextclick bench train": "tests/unit/bench/test_bench.py",
    "nextclick bench worker": INTEGRATION + "bench.py",
    "nextclick collector": INTEGRATION + "trainer.py",
    "nextclick demo": INTEGRATION + "demo.py",
    "nextclick dlq list": INTEGRATION + "dlq.py",
    "nextclick dlq redrive": INTEGRATION + "dlq.py",
    "nextclick dlq show": INTEGRATION + "dlq.py",
    "nextclick doctor": INTEGRATION + "cli.py",
    "nextclick evaluate": INTEGRATION + "evaluate_command.py",
    "nextclick events compact": INTEGRATION + "cli.py",
    "nextclick events upgrade": INTEGRATION + "cli.py",
    "nextclick experiment report": INTEGRATION + "experiment.py",
    "nextclick experiment start": INTEGRATION + "experiment.py",
    "nextclick experiment status": INTEGRATION + "experiment.py",
    "nextclick experiment stop": INTEGRATION + "experiment.py",
    "nextclick explain": INTEGRATION + "cli.py",
    "nextclick forget": INTEGRATION + "forget.py",
    "nextclick import": INTEGRATION + "tutorial.py",
    "nextclick items list": INTEGRATION + "items.py",
    "nextclick items load": INTEGRATION + "items.py",
    "nextclick items restore": INTEGRATION + "items.py",
    "nextclick items retire": INTEGRATION + "items.py",
    "nextclick models list": INTEGRATION + "cli.py",
    "nextclick models prune": INTEGRATION + "cli.py",
    "nextclick models promote": INTEGRATION + "cli.py",
    "nextclick models rollback": INTEGRATION + "cli.py",
    "nextclick models show": INTEGRATION + "cli.py",
    "nextclick related": INTEGRATION + "related.py",
    "nextclick replay": INTEGRATION + "tutorial.py",
    "nextclick servers": INTEGRATION + "tutorial.py",
    "nextclick sessions rebuild": "tests/faults/test_redis.py",
    "nextclick settings": INTEGRATION + "cli.py",
    "nextclick simulate": INTEGRATION + "tutorial.py",
    "nextclick topics check": INTEGRATION + "topics_check.py",
    "nextclick topics create": INTEGRATION + "cli.py",
    "nextclick trainer": INTEGRATION + "tutorial.py",
    "nextclick worker": INTEGRATION + "tutorial.py",
}
"""The test that runs a command: its file holds the command's words."""
OTHERS = {
    ".": "run by tests/integration/test_tutorial.py",
    "b2sum": "run by tests/integration/test_experiment.py",
    "curl": "run by tests/integration/test_tutorial.py or asked by test_api.py and test_health.py",
    "docker": "up, run and down are run by tests/containers/test_compose.py, all are checked here",
    "echo": "run by tests/integration/test_exploration.py",
    "export": "settings; names are checked by tests/unit/shared/runtime/test_settings.py",
    "kafka-acls.sh": "tests/integration/test_kafka_acls.py makes the ACLs that it would make",
    "kafka-configs.sh": "not run: Kafka's own tool",
    "kafka-consumer-groups.sh": "not run: Kafka's own tool",
    "kafka-topics.sh": "not run: Kafka's own tool",
    "kubectl": "not run: there is no cluster; kustomize is, by test_kubernetes.py",
    "make": "the targets are checked here; make test and make lint are run for each change",
    "pip": "not run: the tests' environment holds the extras",
    "printf": "run by tests/integration/test_experiment.py",
    "redis-cli": "its ACL is run by tests/integration/test_redis_login.py",
    "torchrun": "run by tests/faults/test_ranks.py, on one machine",
}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
OBJECTS = [
    thing
    for path in sorted((ROOT / "deploy" / "k8s").rglob("*.yaml"))
    for thing in yaml.safe_load_all(path.read_text())
]


def said(page: Path) -> list[str]:
    """Commands in blocks, a line each, and code in sentences."""
    text = page.read_text()
    lines = []
    for kind, block in re.findall(r"```(bash|console)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").split("\n"):
            if kind == "bash":
                lines.append(line)
            elif line.startswith("$ "):
                lines.append(line[2:])
    return lines


def spoken(page: Path) -> list[str]:
    """Code in sentences that begins as a command does."""
    rest = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    code = re.findall(r"`((?:nextclick|make) [a-z][^`|]*)`", rest)
    return [" ".join(part.split()) for part in code if "…" not in part]


@cache
def every() -> list[list[str]]:
    """The words of every command; of a pipe, of each of its commands."""
    found = []
    for page in PAGES:
        for line in [*said(page), *spoken(page)]:
            words = shlex.split(line.partition("  #")[0]) if line[:1] != "#" else []
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            for joint in [n for n, word in enumerate(words) if word in ("|", "&&", "&")][::-1]:
                found.append(words[joint + 1 :])
                words = words[:joint]
            found.append(words)
    return [words for words in found if words]


def commands(program: str) -> list[list[str]]:
    """The words of every command that begins with this program."""
    begins = program.split()
    return [words for words in every() if words[: len(begins)] == begins and words != begins]


PROGRAM: Any = typer.main.get_command(app)


def resolved(words: list[str]) -> tuple[str, Any, list[str]]:
    """A command of nextclick: its name in full, what it is, and what is left of the words."""
    command, name, rest = PROGRAM, words[0], words[1:]
    while rest and (deeper := getattr(command, "commands", {}).get(rest[0])):
        command, name, rest = deeper, f"{name} {rest[0]}", rest[1:]
    return name, command, rest


@pytest.mark.parametrize("words", commands("nextclick"), ids=" ".join)
def test_a_command_of_nextclick_is_one_and_a_test_runs_it(words: list[str]) -> None:
    name, command, rest = resolved(words)
    if getattr(command, "commands", {}):  # a group: only spoken of
        assert not rest, f"{' '.join(words)}: no command {rest[0]}"
        return
    options = {
        name for parameter in command.params for name in parameter.opts + parameter.secondary_opts
    }
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert given - {"--help"} <= options
    test = (ROOT / RUN_BY[name]).read_text()
    if "test_tutorial" in RUN_BY[name]:  # it runs what the page says
        test = (ROOT / "docs" / "tutorial.md").read_text()
    assert all(word in test for word in name.split()[1:])


def test_every_other_program_is_accounted_for() -> None:
    programs = {
        words[0] for words in every() if words[0] not in ("nextclick", "jq", "grep", "less")
    }
    assert programs == OTHERS.keys()
    targets = set(re.findall(r"^([a-z0-9.-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {words[1] for words in commands("make")} <= targets
    files = set(re.findall(r"tests/[a-z_/]+\.py", " ".join(OTHERS.values())))
    assert all((ROOT / path).exists() for path in files)
    typed_by_make = {"nextclick demo", "nextclick bench peers"}
    named = {resolved(words)[0] for words in commands("nextclick")}
    assert RUN_BY.keys() - named <= typed_by_make  # no entry outlives its command


@pytest.mark.parametrize("words", commands("docker compose"), ids=" ".join)
def test_a_service_of_compose_is_one(words: list[str]) -> None:
    if words[2] == "run":  # what follows the service is for nextclick
        words = words[: 1 + next(n for n, word in enumerate(words) if word in COMPOSE)]
    rest = [word.partition("=")[0] for word in words[2:] if not word.startswith("-")]
    named = {word for word in rest if word.isalpha()}
    verbs = {"up", "ps", "logs", "stop", "start", "run", "down", "build", "observability"}
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
