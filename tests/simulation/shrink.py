"""A history that fails, made smaller while it still fails in the same way."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.history import Result, run


@dataclass(frozen=True)
class Failure:
    """A seed that fails, and what of its faults and clicks that takes."""

    seed: int
    guarantee: str
    only: tuple[int, ...]
    """Numbers of the faults that are needed."""
    clicks: int
    """How many of its clicks are needed, the first ones."""

    @property
    def arguments(self) -> str:
        """What to give `python -m tests.simulation` to see it again."""
        only = ",".join(map(str, self.only)) or "none"
        return (
            f"--guarantee {self.guarantee} --seed {self.seed} --only={only} --clicks {self.clicks}"
        )

    def run(self, *, traced: bool = False) -> Result:
        """Run it again."""
        return run(self.seed, self.guarantee, only=self.only, clicks=self.clicks, traced=traced)


def shrink(result: Result, attempts: int = 200) -> Failure:
    """Leave out clicks from the end, then fault by fault, as long as it fails.

    A smaller history may fail in another way; that is as good.
    """
    drawn = result.scenario
    found = Failure(
        drawn.seed,
        drawn.guarantee,
        tuple(fault.number for fault in result.struck),
        len(drawn.clicks),
    )
    while True:
        for smaller in _smaller(found):
            attempts -= 1
            if attempts < 0:
                return found
            if smaller.run().violations:
                found = smaller
                break
        else:
            return found


def _smaller(found: Failure) -> list[Failure]:
    seed, guarantee, only, clicks = found.seed, found.guarantee, found.only, found.clicks
    fewer = sorted({clicks // 2, clicks * 3 // 4, clicks - 1} - {0, clicks})
    return [
        *(Failure(seed, guarantee, only, count) for count in fewer),
        *(
            Failure(seed, guarantee, only[:i] + only[i + 1 :], clicks)
            for i in reversed(range(len(only)))
        ),
    ]
