"""Print docs/configuration.md: python docs/make_configuration.py > docs/configuration.md"""

from __future__ import annotations

from nextclick.shared.runtime.settings import environment_names

INTRODUCTION = """\
# Configuration

<!-- Made by docs/make_configuration.py from shared/runtime/settings.py; do not edit by hand. -->

This page lists every setting. Each is an environment variable; there is no settings file. A
variable that starts with `NEXTCLICK_` and is not in this table stops the process with exit code 2,
so a typo cannot pass unnoticed; so does a value of the wrong type. Changes take effect when a
process starts, but for [passwords in files](../SECURITY.md#passwords-that-change).
`nextclick settings` lists the values that apply in your shell and masks the secret ones.

All processes of one shop need the same `NEXTCLICK_KAFKA__*` and `NEXTCLICK_REGISTRY__URL`.
`NEXTCLICK_SESSION__GAP_SECONDS` must be the same for worker and trainer: what is learned from
sessions cut one way does not fit sessions cut another way.

Topic settings (`PARTITIONS`, `REPLICATION_FACTOR`, `RETENTION_HOURS`) apply to topics that
nextclick creates. A topic that exists is never altered.

| Variable | Default | Meaning |
|---|---|---|"""


def row(name: str, default: str, meaning: str) -> str:
    """One line of the table."""
    cells = (f"`{name}`", f"`{default}`" if default else "(empty)", meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Print the whole page."""
    print(INTRODUCTION)
    for name, (default, meaning) in environment_names().items():
        print(row(name, default, meaning))


if __name__ == "__main__":
    main()
