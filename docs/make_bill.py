"""Print docs/bill-of-materials.md: what a running shop consists of, as it is installed here.

Run by `make bill`. It follows the dependencies of nextclick itself, not those of its tests.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

INTRODUCTION = """\
# Bill of materials

<!-- Made by docs/make_bill.py (`make bill`); do not edit by hand. -->

For an audit: which packages the services load, with the version that the tests of this release
ran with and the licence that the package states. `make audit` looks these versions up among the
known vulnerabilities.

| Package | Version | Licence |
|---|---|---|"""


def required_packages() -> list[Distribution]:
    """The packages that nextclick needs here, by name."""
    found: dict[str, Distribution] = {}
    pending: list[tuple[str, frozenset[str]]] = [("nextclick", frozenset({"api", "train"}))]
    seen = set(pending)
    while pending:
        name, extras = pending.pop()
        for requirement in map(Requirement, distribution(name).requires or []):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": e}) for e in {"", *extras}):
                continue
            wanted = (requirement.name, frozenset(requirement.extras))
            try:
                package = distribution(requirement.name)
            except PackageNotFoundError:
                continue  # for another platform
            found[re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()] = package
            if wanted not in seen:
                seen.add(wanted)
                pending.append(wanted)
    return [found[name] for name in sorted(found)]


def licence(package: Distribution) -> str:
    """What the package says of its licence, in short."""
    metadata = package.metadata
    if metadata["License-Expression"]:
        return str(metadata["License-Expression"])
    classified = [
        value.rpartition(" :: ")[2]
        for value in metadata.get_all("Classifier") or []
        if value.startswith("License ::")
    ]
    first_line = (metadata["License"] or "").strip().split("\n")[0]
    return ", ".join(classified) or first_line[:60] or "not stated"


VENDORED = (
    ("swagger-ui-dist", "services/api/swagger_ui", "Apache-2.0"),
    ("uplot", "services/api/page/static/uPlot", "MIT"),
)
"""npm packages whose files are in this repository: name, folder, licence."""


def version_in(folder: str) -> str:
    """The version of the files in a folder; its README names it in the title."""
    readme = Path(__file__).parents[1] / folder / "README.md"
    return readme.read_text().split("\n")[0].split()[-1]


def main() -> None:
    """Print the whole page, or with --pins one name==version a line."""
    pins = "--pins" in sys.argv
    if not pins:
        print(INTRODUCTION)
    for package in required_packages():
        name, version = package.metadata["Name"], package.version
        if pins:
            print(f"{name}=={version.partition('+')[0]}")  # +cpu is a build, not a release
        else:
            print(f"| {name} | {version} | {licence(package).replace('|', '/')} |")
    if not pins:
        for name, folder, terms in VENDORED:
            print(f"| {name} (npm, {folder}) | {version_in(folder)} | {terms} |")


if __name__ == "__main__":
    main()
