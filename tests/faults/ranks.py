"""A retraining on several processes: what each of them does, to be started and broken by tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from nextclick.shared.errors import NextclickError
from nextclick.shared.model import BSTConfig
from nextclick.shared.registry import Registry
from nextclick.trainer.fit.distributed import process_group
from nextclick.trainer.fit.presets import DEFAULT, Preset, Regularisation
from nextclick.trainer.retrain import FitLimits, fit_with_rank_zero, retrain
from tests.faults import children
from tests.unit.trainer.test_retrain import pattern_log

RECIPE = replace(
    DEFAULT,
    shape=BSTConfig(items=1, embed_dim=16, heads=2, layers=1, feedforward=16),
    regularisation=Regularisation(0.0, 0.0, 0.0),
    batch_size=64,
    epochs=4,
    patience=9,
    steps=0,
    learning_rate=5e-3,
)
NOISY = replace(RECIPE, regularisation=Regularisation(0.2, 0.2, 0.1))
LOST = "another process of this fit"


def take_part(
    rank: int,
    world: int,
    port: int,
    registry: Path,
    recipe: Preset,
    timeout: float,
    fits: int,
    tamper: Callable[[], None] | None,
) -> None:
    """One process; its exit code is 2 after an error of ours, which it prints."""
    if tamper is not None:
        tamper()
    torch.set_num_threads(1)
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(rendezvous, RANK=str(rank), WORLD_SIZE=str(world))
    limits, cpu = FitLimits(seed=1), torch.device("cpu")
    try:
        with process_group(timeout_seconds=timeout) as ranks:
            if ranks.rank:
                fit_with_rank_zero(ranks, recipe, limits, gap_ms=0, device=cpu)
                return
            for number in range(fits):
                frame = pattern_log(30, offset=number)
                store = Registry(str(registry))
                done = retrain(frame, store, recipe, limits, gap_ms=0, device=cpu, ranks=ranks)
                print(done, flush=True)
            ranks.send_end()
    except NextclickError as error:
        print(error, flush=True)
        raise SystemExit(2) from None


def start(
    folder: Path,
    world: int,
    recipe: Preset = RECIPE,
    *,
    timeout: float = 30.0,
    fits: int = 1,
    tamper: dict[int, Callable[[], None]] | None = None,
    recipes: dict[int, Preset] | None = None,
) -> list[ForkServerProcess]:
    """Start the processes of a retraining into folder/registry; each logs into folder/RANK."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        children.call(
            partial(
                take_part,
                rank,
                world,
                port,
                folder / "registry",
                (recipes or {}).get(rank, recipe),
                timeout,
                fits,
                (tamper or {}).get(rank),
            ),
            folder / str(rank),
        )
        for rank in range(world)
    ]


def at_step(number: int, action: Callable[[], None]) -> None:
    """Do something before the `number`th step's gradients are averaged."""
    from nextclick.trainer.fit.distributed import ProcessGroup

    average, left = ProcessGroup.average, number

    def told(self: ProcessGroup, model: torch.nn.Module, halt: bool) -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            action()
        return average(self, model, halt)

    ProcessGroup.average = told  # type: ignore[method-assign]
