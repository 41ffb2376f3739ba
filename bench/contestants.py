"""Processes that answer clicks: our worker, the echo, the twin on another stream processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nextclick.services.demo.local_servers import Processes
from nextclick.shared.runtime.settings import PREFIX


@dataclass(frozen=True)
class Contestant:
    """How to start one."""

    module: str
    arguments: tuple[str, ...] = ()
    python: Path | None = None
    """The interpreter that runs it; this one if None."""
    settings: Mapping[str, str] = field(default_factory=dict)

    def start(self, name: str, processes: Processes) -> None:
        """Start it as the process `name`."""
        processes.start(
            name, list(self.arguments), self.settings, module=self.module, python=self.python
        )


WORKER = Contestant("nextclick", ("worker",))
ECHO = Contestant("nextclick.bench.echo")


def own_names(name: str) -> dict[str, str]:
    """Settings that give a run topics, a consumer group and session keys of its own."""
    return {
        f"{PREFIX}KAFKA__CLICKS_TOPIC": f"{name}-clicks",
        f"{PREFIX}KAFKA__RECOMMENDATIONS_TOPIC": f"{name}-recommendations",
        f"{PREFIX}WORKER__GROUP_ID": name,
        f"{PREFIX}TRAINER__GROUP_ID": f"{name}-trainer",
        f"{PREFIX}REDIS__KEY_PREFIX": f"{name}:",
    }
