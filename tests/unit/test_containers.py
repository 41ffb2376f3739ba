"""What the Dockerfile and docker-compose.yml promise: checked without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().split()

WRITABLE = {
    "kafka": {"kafka:/var/lib/kafka/data"},
    "redis": {"sessions:/data"},
    "simulator": set(),
    "worker": {"registry:/data/registry"},
    "trainer": {"registry:/data/registry", "event_log:/data/event_log"},
}
"""Every service, and the volumes that it may write."""


def blocks(text: str, indent: int) -> dict[str, str]:
    """Key → its value as text, of the keys at this indent. As much of YAML as we write."""
    found: dict[str, str] = {}
    key = ""
    for line in text.split("\n"):
        if match := re.match(rf" {{{indent}}}([A-Za-z_<-]+):(.*)", line):
            key = match[1]
            found[key] = match[2]
        elif key:
            found[key] += "\n" + line
    return found


def resolved(text: str, indent: int) -> dict[str, str]:
    """The same with what `<<: *name` brings along."""
    own = blocks(text, indent)
    merged: dict[str, str] = {}
    if name := re.match(r" \*(\w+)", own.pop("<<", "")):
        (base,) = [b for b in blocks(COMPOSE, 0).values() if b.startswith(f" &{name[1]}\n")]
        merged = resolved(base, 2)
    return {**merged, **own}


def items(value: str) -> set[str]:
    """The entries of a list on one line or one a line."""
    text = re.sub(r"(^|\s)#.*", "", value).strip()
    if text.startswith("["):
        return {part.strip(" \"'") for part in text.strip("[]").split(",")}
    return {line.strip(" -\"'") for line in text.split("\n") if line.strip()}


SERVICES = blocks(blocks(COMPOSE, 0)["services"], 2)


def test_every_service_is_looked_at() -> None:
    assert SERVICES.keys() == WRITABLE.keys()


@pytest.mark.parametrize("name", WRITABLE)
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = resolved(SERVICES[name], 4)
    assert service["read_only"].strip() == "true"
    assert "/tmp" in items(service["tmpfs"])
    assert items(service["cap_drop"]) == {"ALL"}
    assert items(service["security_opt"]) == {"no-new-privileges:true"}
    assert items(service.get("volumes", "")) - {""} == WRITABLE[name]
    too_much = {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "userns_mode"}
    assert not too_much & service.keys()
    assert service.get("user", "").strip() not in ("root", "0")
    for port in items(service.get("ports", "")) - {""}:
        assert port.startswith("127.0.0.1:")


def test_no_secret_and_no_engine_socket_in_the_compose_file() -> None:
    assert "docker.sock" not in COMPOSE
    said = re.sub(r"(?m)(^|\s)#.*", "", COMPOSE)
    assert not re.search(r"password|secret|://[^/\s]*@", said, re.IGNORECASE)


def test_the_image_runs_as_nobody_special() -> None:
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)", last_stage, re.MULTILINE)
    assert users == ["10001:10001"]
    after = last_stage.split("USER ", 1)[1]
    assert not re.search(r"^(RUN|COPY|ADD)", after, re.MULTILINE)  # all is there, owned by root


def test_the_image_is_built_from_listed_folders_only() -> None:
    assert IGNORED[IGNORED.index("*")] == "*"
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in line.split():
            assert f"!{source}" in IGNORED, f"{source} is not sent to the engine"


def test_compose_reads_it_so_too() -> None:
    docker = shutil.which("docker")
    there = (
        docker
        and not subprocess.run(
            [docker, "compose", "version"], capture_output=True, check=False
        ).returncode
    )
    if not there:
        pytest.skip("needs docker with compose; the tests above have read the file themselves")
    command = [str(docker), "compose", "-f", str(ROOT / "docker-compose.yml"), "config"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("read_only: true") == len(WRITABLE)
    assert result.stdout.count("no-new-privileges:true") == len(WRITABLE)
