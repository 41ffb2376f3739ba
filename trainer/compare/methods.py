"""All methods that can be compared, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.compare.baselines import BASELINES
from nextclick.trainer.compare.baselines.categories import CategoryPopularity
from nextclick.trainer.compare.benchmark import Benchmark
from nextclick.trainer.compare.bst_method import BSTMethod
from nextclick.trainer.compare.ceiling import Ceiling
from nextclick.trainer.compare.method import Method
from nextclick.trainer.fit.presets import preset

Factory = Callable[[], Method]


@dataclass(frozen=True)
class MethodOptions:
    """Options of the methods."""

    presets: Sequence[str]
    """Presets of our model; each is a method."""
    device: torch.device
    max_seconds: float | None = None
    """Longest fit, for methods with such a limit; None: their defaults."""


def method_factories(
    names: Sequence[str], benchmark: Benchmark, options: MethodOptions
) -> list[Factory]:
    """Factories of the named methods; "all": all methods that are applicable to the data.

    Only letters and digits of a name matter, not their case: vsknn is V-SkNN. Raises
    ConfigurationError for an unknown name or preset, and for a ceiling without an oracle.
    """
    known = _known(benchmark, options)
    chosen = list(known) if "all" in names else list(dict.fromkeys(map(_normalised, names)))
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
    """Name → factories, for this data set."""
    known = {_normalised(name): [_bounded(make, options)] for name, make in BASELINES.items()}
    if contents := benchmark.contents:
        known["categorypopularity"] = [lambda: CategoryPopularity(contents)]
    known["bst"] = [_bst(name, benchmark, options) for name in options.presets]
    if (oracle := benchmark.oracle) is not None:
        known["ceiling"] = [lambda: Ceiling(oracle)]
    return known


def _bounded(make: Factory, options: MethodOptions) -> Factory:
    """A factory that applies max_seconds to a method that has this attribute."""

    def bounded() -> Method:
        method = make()
        if options.max_seconds is not None and hasattr(method, "max_seconds"):
            method.max_seconds = options.max_seconds
        return method

    return bounded


def _bst(name: str, benchmark: Benchmark, options: MethodOptions) -> Factory:
    recipe = preset(name)
    seconds = float("inf") if options.max_seconds is None else options.max_seconds
    return lambda: BSTMethod(
        recipe, options.device, max_seconds=seconds, contents=benchmark.contents
    )


def _normalised(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
