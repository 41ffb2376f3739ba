"""`make simulate ARGS="--minutes 60"`: seed after seed, until one fails or the time is over."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.faults import SUBJECTS
from tests.simulation.history import Result, run
from tests.simulation.shrink import shrink


def main() -> int:
    """Return 1 if a history failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to go on")
    parser.add_argument("--seed", type=int, help="run this one alone, and tell all about it")
    parser.add_argument("--first", type=int, default=0, help="the seed to begin with")
    parser.add_argument("--guarantee", choices=SUBJECTS)
    parser.add_argument("--only", help="with these of its faults only: numbers, or none")
    parser.add_argument("--clicks", type=int, help="with its first clicks only")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a failure")
    given = parser.parse_args()
    guarantees = (given.guarantee,) if given.guarantee else SUBJECTS
    if given.seed is not None:
        only = None
        if given.only is not None:
            only = [int(n) for n in given.only.split(",") if n.strip("-").isdigit()]
        results = [
            run(given.seed, g, only=only, clicks=given.clicks, traced=True) for g in guarantees
        ]
        for result in results:
            print(report(result))
        return int(any(result.violations for result in results))
    began, seed, failed = time.monotonic(), given.first, 0
    while time.monotonic() - began < 60 * given.minutes:
        for guarantee in guarantees:
            result = run(seed, guarantee)
            if result.violations:
                failed += 1
                print(explained(result), flush=True)
                if not given.keep_going:
                    return 1
        seed += 1
    seeds = seed - given.first
    a_minute = seeds * len(guarantees) / (time.monotonic() - began) * 60
    print(
        f"{seeds:,} seeds from {given.first}, {', '.join(guarantees)}: "
        f"{failed} failed, {a_minute:,.0f} histories a minute"
    )
    return int(failed > 0)


def report(result: Result) -> str:
    """A history for people."""
    drawn = result.scenario
    violations = "\n".join(f"VIOLATED: {text}" for text in result.violations) or "all is well"
    return "\n".join(
        [
            f"seed {drawn.seed}, {drawn.guarantee}: {drawn.workers} processes "
            f"({'static' if drawn.static else 'dynamic'}, {drawn.assignor}), "
            f"{drawn.partitions} partitions of clicks, {drawn.answer_partitions} of answers, "
            f"{len(drawn.clicks)} clicks of {drawn.users} users, batches of {drawn.max_batch}, "
            f"latency up to {drawn.slowest} s",
            *result.trace,
            violations,
        ]
    )


def explained(result: Result) -> str:
    """A failure made small, told, and how to see it again."""
    failure = shrink(result)
    drawn = result.scenario
    return "\n".join(
        [
            report(failure.run(traced=True)),
            "",
            f"as it was:  python -m tests.simulation --guarantee {drawn.guarantee} "
            f"--seed {drawn.seed}",
            f"as is here: python -m tests.simulation {failure.arguments}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
