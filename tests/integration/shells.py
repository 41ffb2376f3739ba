"""The commands of documentation pages, typed into shells."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.waiting import until

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
STAY = ("nextclick servers", "nextclick worker", "nextclick api")
"""They run in terminals of their own until the end."""
PREPARATION = ("make demo", "export PATH")
"""Of the checkout, which a test has."""


def typed(page: Path = TUTORIAL) -> list[str]:
    """The commands of a page in their order."""
    found = []
    for kind, block in re.findall(r"```(bash|console)\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.splitlines():
            command = line.removeprefix("$ ").partition("  #")[0].strip()
            if command and (kind == "bash" or line.startswith("$ ")):
                found.append(command)
    return [command for command in found if not command.startswith(PREPARATION)]


class Terminals:
    """Shells in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = ""
        programs = str(Path(sys.executable).parent)
        self._environ = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "NEXTCLICK_TRAINER__MAX_EPOCHS": "3",  # enough to beat the popular items
        }
        self._staying: dict[str, subprocess.Popen[bytes]] = {}

    def say(self, command: str) -> str:
        """Run a command to its end; returns its output."""
        loaded = "if [ -f nextclick.env ]; then . ./nextclick.env; fi; export NEXTCLICK_API__PORT=0"
        command = command.replace("localhost:8000", self.port)
        done = subprocess.run(
            ["bash", "-c", f"{loaded}; {command}"],
            cwd=self.folder,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def stay(self, command: str, sign: str) -> str:
        """Start a command and wait until its output holds the sign; returns the output."""
        log = self.folder / f"{command.replace(' ', '-')}.log"
        loaded = "if [ -f nextclick.env ]; then . ./nextclick.env; fi; export NEXTCLICK_API__PORT=0"
        with log.open("wb") as output:
            self._staying[command] = subprocess.Popen(
                ["bash", "-c", f"{loaded}; exec {command}"],
                cwd=self.folder,
                env=self._environ,
                stdout=output,
                stderr=output,
            )
        until(lambda: sign in log.read_text(), f"{command} is up: {log.read_text()}")
        return log.read_text()

    def close(self) -> None:
        """Ctrl-C in each, the servers' last."""
        for process in reversed(self._staying.values()):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
