"""Fuzz the decoder with atheris: `make fuzz ARGS="--seconds 600"`.

atheris instruments Python code; the JSON parser is compiled, so it is steered by the corpus and by
what the code around it does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["nextclick.services.worker.decide", "nextclick.shared.schemas", "tests.fuzz"]
):
    from tests.fuzz import properties

CORPUS = Path(__file__).with_name("corpus")


FIELDS = ("event_id", "user_id", "item_id", "timestamp", "event_type", "schema_version", "x")


def one(data: bytes) -> None:
    """Check the input as it is, and as a choice of fields and what is in them."""
    properties.check_input(data)
    properties.check(_shaped(atheris.FuzzedDataProvider(data)))


def _shaped(choice: atheris.FuzzedDataProvider) -> bytes:
    """Something that nearly is a click: bytes alone seldom get past the parser."""
    click: dict[str, object] = {"event_id": "e", "user_id": "u", "item_id": "i", "timestamp": 1}
    for _ in range(choice.ConsumeIntInRange(0, 4)):
        name = FIELDS[choice.ConsumeIntInRange(0, len(FIELDS) - 1)]
        kind = choice.ConsumeIntInRange(0, 5)
        if kind <= 1:
            click[name] = choice.ConsumeUnicode(140)  # lone surrogates, too
        elif kind == 2:
            click[name] = choice.ConsumeInt(choice.ConsumeIntInRange(1, 80))
        elif kind == 3:
            click[name] = choice.ConsumeFloat()
        elif kind == 4:
            click[name] = choice.PickValueInList([None, True, [], {}, "", 10**127, -(10**127)])
        else:
            click.pop(name, None)
    text = json.dumps(click, ensure_ascii=choice.ConsumeBool())
    return text.encode("utf-8", "surrogatepass")


def main() -> None:
    """Read the options, fuzz, exit 1 on a finding; it lies in build/fuzz/found then."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    found = Path("build/fuzz/found")
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as grown:  # new inputs go there; the kept corpus stays small
        atheris.Setup(
            [
                sys.argv[0],
                grown,
                str(CORPUS),
                f"-max_total_time={options.seconds}",
                f"-artifact_prefix={found}/",
                f"-dict={CORPUS.with_name('click.dict')}",
                "-max_len=4096",
                "-timeout=10",
                "-print_final_stats=1",
            ],
            one,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
