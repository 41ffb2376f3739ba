"""Batches while a live experiment runs: split by the arms of their users, ranked, and merged again.

For the worker and the HTTP service. If the model of arm b is broken, arm a answers all users, so
who scores ranks for b first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nextclick.shared.experiments import ARMS, Arm, Experiment
from nextclick.shared.model import Ranking, are_finite
from nextclick.shared.registry.slot import Arms, ServedModel
from nextclick.shared.schemas import ExperimentArm

T = TypeVar("T")


class ArmBroken(Exception):
    """The model of arm b fails, or its scores are not finite; the text says which."""


@dataclass(frozen=True)
class ArmSplit:
    """A batch, split by arm."""

    arms: Arms
    of: list[Arm]
    """The arm of each of its requests."""

    @property
    def experiment(self) -> Experiment:
        """The experiment that runs."""
        return self.arms.experiment

    @property
    def marks(self) -> dict[Arm, ExperimentArm]:
        """What the answers of each arm say of the experiment."""
        return {arm: ExperimentArm(name=self.experiment.name, arm=arm) for arm in ARMS}

    def part(self, arm: Arm, batch: Sequence[T]) -> list[T]:
        """What belongs to the requests of one arm; batch: one for each request."""
        return [one for one, its in zip(batch, self.of, strict=True) if its == arm]

    def rank_by_b(self, rank: Callable[[ServedModel], list[list[Ranking]]]) -> list[list[Ranking]]:
        """The rankings of arm b's requests by its model, without any if there are none.

        rank(model): for each kind of list, one ranking for each request. Raises ArmBroken.
        """
        if "b" not in self.of:
            return []
        model = self.arms.b
        try:
            rankings = rank(model)
        except Exception as error:
            raise ArmBroken(f"model {model.version} gives {error!r}") from error
        if not all(map(are_finite, rankings)):
            raise ArmBroken(f"model {model.version} gives scores that are not finite")
        return rankings

    def merged(self, of_a: list[list[Ranking]], of_b: list[list[Ranking]]) -> list[list[Ranking]]:
        """For each kind of list, the rankings of both arms in the order of the batch."""
        if "b" not in self.of:
            return of_a
        if "a" not in self.of:
            return of_b
        merged = []
        for kind_a, kind_b in zip(of_a, of_b, strict=True):
            left: dict[Arm, list[Ranking]] = {"a": kind_a[::-1], "b": kind_b[::-1]}
            merged.append([left[arm].pop() for arm in self.of])
        return merged


def split_by_arm(
    model: ServedModel, arms: Arms | None, user_ids: Iterable[str | None]
) -> ArmSplit | None:
    """Split a batch by the arms of its users; None if no experiment runs, or arm a does not serve.

    model, arms: those in the slot. Whoever is nobody, without an id, gets arm a's model.
    """
    if arms is None or model.name != arms.experiment.a:
        return None
    arm_of = arms.experiment.arm_of
    return ArmSplit(arms, ["a" if user is None else arm_of(user) for user in user_ids])
