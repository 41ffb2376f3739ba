"""Processes that answer clicks: our worker, the echo, and the worker on Quix Streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nextclick.services.demo.local_servers import Processes
from nextclick.shared.runtime.settings import PREFIX


@dataclass(frozen=True)
class Contestant:
    """How to start such a process."""

    module: str
    arguments: tuple[str, ...] = ()
    python: Path | None = None
    """Its Python interpreter; None: the one of this process."""
    settings: Mapping[str, str] = field(default_factory=dict)

    def start(self, name: str, processes: Processes) -> None:
        """Start it under a name."""
        processes.start(
            name, list(self.arguments), self.settings, module=self.module, python=self.python
        )


WORKER = Contestant("nextclick", ("worker",))
ECHO = Contestant("nextclick.bench.echo")


def own_names(name: str) -> dict[str, str]:
    """Settings that give a run its own topics, consumer groups and session keys."""
    return {
        f"{PREFIX}KAFKA__CLICKS_TOPIC": f"{name}-clicks",
        f"{PREFIX}KAFKA__RECOMMENDATIONS_TOPIC": f"{name}-recommendations",
        f"{PREFIX}WORKER__GROUP_ID": name,
        f"{PREFIX}TRAINER__GROUP_ID": f"{name}-trainer",
        f"{PREFIX}REDIS__KEY_PREFIX": f"{name}:",
    }
