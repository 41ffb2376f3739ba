"""Times several functions in turns, so that noise of the machine affects all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one function, for each round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        """Median over the rounds of the seconds per call."""
        return statistics.median(self.rounds)

    def ratio(self, other: Timing) -> float:
        """Median over the rounds of other / this."""
        return statistics.median(b / a for a, b in zip(self.rounds, other.rounds, strict=True))


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: int = 5,
    least_seconds: float = 0.05,
) -> dict[str, Timing]:
    """Time every function once per round, each repeated for at least `least_seconds`.

    Every function is called once before, to warm up. The garbage collector is disabled. On a GPU,
    launched kernels are waited for.
    """
    for call in calls.values():
        call()
    measured: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in calls.items():
                measured[name].append(_seconds(call, device, least_seconds))
    finally:
        gc.enable()
    return {name: Timing(seconds) for name, seconds in measured.items()}


def _seconds(call: Callable[[], object], device: torch.device, least: float) -> float:
    """Mean seconds per call."""
    _wait(device)
    count = 0
    began = time.perf_counter()
    while True:
        call()
        count += 1
        if time.perf_counter() - began >= least:
            _wait(device)
            return (time.perf_counter() - began) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
