"""The methods that can be compared, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.compare.baselines import BASELINES
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.bst_method import BSTMethod
from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.compare.method import Method
from nextclick.trainer.fit.presets import preset

Factory = Callable[[], Method]


@dataclass(frozen=True)
class MethodOptions:
    """What the methods are made with."""

    presets: Sequence[str]
    """Of our own model; each is a method."""
    device: torch.device
    max_seconds: float | None = None
    """Bounds each fit, where a method can be bounded; None: as each method has it."""


def factories(names: Sequence[str], benchmark: Benchmark, options: MethodOptions) -> list[Factory]:
    """Make the makers of the named methods; "all" stands for everything that the data allows.

    Case, blanks and signs in a name do not matter: V-SkNN is vsknn. Raises ConfigurationError
    for an unknown name or preset, or a ceiling where none is known.
    """
    known = _known(benchmark, options)
    chosen = list(known) if "all" in names else list(dict.fromkeys(map(_plain, names)))
    if "ceiling" in chosen and benchmark.oracle is None:
        raise ConfigurationError(
            "--methods ceiling: the best possible is known for the simulated worlds only"
        )
    if unknown := [name for name in chosen if name not in known]:
        raise ConfigurationError(
            f"--methods {', '.join(unknown)}: not known; use all or some of {', '.join(known)}"
        )
    return [factory for name in chosen for factory in known[name]]


def _known(benchmark: Benchmark, options: MethodOptions) -> dict[str, list[Factory]]:
    """Every name, and what it stands for on this data set."""
    known = {_plain(name): [_bounded(make, options)] for name, make in BASELINES.items()}
    known["bst"] = [_bst(name, options) for name in options.presets]
    if (oracle := benchmark.oracle) is not None:
        known["ceiling"] = [lambda: Ceiling(oracle)]
    return known


def _bounded(make: Factory, options: MethodOptions) -> Factory:
    """Make a baseline; those that take their time have an attribute max_seconds."""

    def bounded() -> Method:
        method = make()
        if options.max_seconds is not None and hasattr(method, "max_seconds"):
            method.max_seconds = options.max_seconds
        return method

    return bounded


def _bst(name: str, options: MethodOptions) -> Factory:
    recipe = preset(name)
    seconds = float("inf") if options.max_seconds is None else options.max_seconds
    return lambda: BSTMethod(recipe, options.device, max_seconds=seconds)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
