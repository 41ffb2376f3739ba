"""The container engine: Docker with its compose plugin, or podman with podman-compose."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGE = "nextclick:local"


class NoEngine(Exception):
    """There is no engine that could run docker-compose.yml; the message says what is missing."""


@dataclass(frozen=True)
class Engine:
    """A program that runs containers, and the command that reads docker-compose.yml for it."""

    program: str
    compose_command: tuple[str, ...]

    def run(self, *arguments: str) -> str:
        """Run `PROGRAM ARGUMENTS` and return what it printed; AssertionError if it fails."""
        return run([self.program, *arguments])

    def succeeds(self, *arguments: str) -> bool:
        """Run `PROGRAM ARGUMENTS`: did it succeed?"""
        command = [self.program, *arguments]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def compose(self, project: str, *arguments: str) -> str:
        """Run a command of compose on docker-compose.yml, under a project's name."""
        file = str(ROOT / "docker-compose.yml")
        return run([*self.compose_command, "-p", project, "-f", file, *arguments])

    def scale(self, project: str, service: str, count: int) -> None:
        """Make it so many containers of a service; the others stay as they are."""
        self.compose(project, "up", "-d", "--no-build", "--scale", f"{service}={count}")
        for container in self.of_service(project, service)[count:]:  # podman-compose leaves these
            self.run("stop", "--time", "30", container)
            self.run("rm", container)

    def remove_everything(self, project: str) -> None:
        """Take a project down with its data, in whatever state it is."""
        for container in self.of_project("container", project):
            if not re.search(r"[-_]1$", container):
                self.run("rm", "--force", container)  # podman-compose forgets scaled ones
        self.compose(project, "down", "--volumes")

    def is_healthy(self, container: str) -> bool:
        """Does the container's health check succeed?

        Docker runs it now and then and remembers. podman needs systemd for that, so it is told to.
        """
        if self.program == "podman":
            return self.succeeds("healthcheck", "run", container)
        status = self.run("inspect", "--format", "{{.State.Health.Status}}", container)
        return status.strip() == "healthy"

    def of_project(self, kind: str, project: str) -> list[str]:
        """Names of a project's containers (stopped ones, too), volumes or networks."""
        label = f"label=com.docker.compose.project={project}"
        if kind == "container":
            names = self.run("ps", "--all", "--filter", label, "--format", "{{.Names}}")
        else:
            names = self.run(kind, "ls", "--filter", label, "--format", "{{.Name}}")
        return sorted(names.split())

    def of_service(self, project: str, service: str) -> list[str]:
        """Names of the running containers of a service."""
        labels = [f"label=com.docker.compose.project={project}"]
        labels += [f"label=com.docker.compose.service={service}"]
        filters = [word for label in labels for word in ("--filter", label)]
        return sorted(self.run("ps", *filters, "--format", "{{.Names}}").split())


def run(command: list[str]) -> str:
    """Run a command and return its output; AssertionError with all that it printed if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def find_engine() -> Engine:
    """Docker if it answers and has its compose plugin, else podman.

    Raises NoEngine if neither can run docker-compose.yml.
    """
    docker = Engine("docker", ("docker", "compose"))
    if shutil.which("docker") and docker.succeeds("info") and docker.succeeds("compose", "version"):
        return docker
    if not shutil.which("podman"):
        raise NoEngine("needs Docker with its compose plugin, running, or podman")
    beside = Path(sys.executable).with_name("podman-compose")
    podman_compose = str(beside) if beside.exists() else shutil.which("podman-compose")
    if podman_compose is None:
        raise NoEngine("podman is here but podman-compose is not: pip install podman-compose")
    # Not in a pod: there all containers would be one host, and no service could be scaled.
    return Engine("podman", (podman_compose, "--in-pod", "false"))
