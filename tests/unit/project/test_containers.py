"""What the Dockerfile and docker-compose.yml promise: checked without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nextclick.shared.runtime.settings import PREFIX, environment_names
from tests import backend

ROOT = Path(__file__).parents[3]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().split()

WRITABLE = {
    "kafka": {"kafka:/var/lib/kafka/data"},
    "redis": {"sessions:/data"},
    "simulator": set(),
    "worker": {"registry:/data/registry"},
    "related": set(),
    "trainer": {"registry:/data/registry", "event_log:/data/event_log"},
    "api": {"registry:/data/registry", "keys:/data/keys"},
    "prometheus": {"prometheus:/prometheus"},
    "grafana": {"grafana:/var/lib/grafana"},
}
"""Every service, and the volumes that it may write."""

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]


def test_every_service_is_looked_at() -> None:
    assert SERVICES.keys() == WRITABLE.keys()


@pytest.mark.parametrize("name", WRITABLE)
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert "/tmp" in service["tmpfs"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    mounted = service.get("volumes", [])
    assert {volume for volume in mounted if not volume.endswith(":ro")} == WRITABLE[name]
    too_much = {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "userns_mode"}
    assert not too_much & service.keys()
    assert service.get("user") not in ("root", "0", 0)
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", WRITABLE)
def test_what_a_service_runs_is_pinned_and_what_it_mounts_is_there(name: str) -> None:
    assert re.fullmatch(r"nextclick:local|[a-z/]+:v?\d[\w.-]*", SERVICES[name]["image"])
    for volume in SERVICES[name].get("volumes", []):
        if volume.startswith("./"):
            assert (ROOT / volume.split(":")[0]).exists()


def test_kafka_and_valkey_are_those_that_the_tests_run_on() -> None:
    assert SERVICES["kafka"]["image"] == backend.KAFKA_IMAGE
    assert SERVICES["redis"]["image"] == backend.REDIS_IMAGE


@pytest.mark.parametrize("name", WRITABLE)
def test_every_setting_in_the_compose_file_is_one(name: str) -> None:
    ours = {n for n in SERVICES[name].get("environment", {}) if n.startswith(PREFIX)}
    assert ours <= set(environment_names())


def test_observability_and_related_items_are_asked_for() -> None:
    asked = {
        name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service
    }
    assert asked == {
        "related": ["related"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
    }


def test_no_secret_and_no_engine_socket_in_the_compose_file() -> None:
    assert "docker.sock" not in COMPOSE
    said = re.sub(r"(?m)(^|\s)#.*", "", COMPOSE)
    assert not re.search(r"password|secret|://[^/\s]*@", said, re.IGNORECASE)


def test_the_image_runs_as_an_unprivileged_user() -> None:
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


def compose_command() -> list[str] | None:
    """`docker compose` where the command line has it, else the older `docker-compose`."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(words[0]):
            asked = subprocess.run([*words, "version"], capture_output=True, check=False)
            if asked.returncode == 0:
                return words
    return None


@pytest.mark.parametrize("profile", ["", "observability", "related"])
def test_compose_reads_it_so_too(profile: str) -> None:
    compose = compose_command()
    if compose is None:
        pytest.skip("needs docker compose; the tests above have read the file themselves")
    command = [*compose, "-f", str(ROOT / "docker-compose.yml")]
    command += ["--profile", profile] if profile else []
    result = subprocess.run([*command, "config"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    read = yaml.safe_load(result.stdout)["services"]
    wanted = {n for n, s in SERVICES.items() if s.get("profiles", [profile]) == [profile]}
    assert wanted <= read.keys()
    for name in wanted:
        assert read[name]["read_only"] is True
        assert read[name]["security_opt"] == ["no-new-privileges:true"]
