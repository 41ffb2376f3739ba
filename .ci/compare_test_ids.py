"""Collect the tests twice and compare: ids and order must depend on neither chance nor time.

pytest-xdist refuses to run if its processes collect different tests. The two collections differ
in their seed of hashes, their time zone and their second.
"""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
import time


def collect(hash_seed: str, time_zone: str) -> list[str]:
    """The ids of all tests, in the order in which pytest would run them."""
    collected = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "--long",
            "-q",
            "-p",
            "no:cacheprovider",
        ],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": time_zone},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if collected.returncode:
        sys.exit(collected.stdout)
    return [line for line in collected.stdout.splitlines() if "::" in line]


def main() -> None:
    """Exit with 1 and the differences if there are any."""
    first_began = int(time.time())
    first = collect("1", "Pacific/Kiritimati")
    assert int(time.time()) > first_began, "both collections fell into one second"
    second = collect("2", "Pacific/Pago_Pago")
    if first != second:
        difference = difflib.unified_diff(first, second, "first", "second", lineterm="", n=0)
        sys.exit("tests differ from one collection to the next:\n" + "\n".join(difference))
    assert first, "no tests were collected"
    print(f"{len(first):,} tests, collected twice: the same ids in the same order")


if __name__ == "__main__":
    main()
