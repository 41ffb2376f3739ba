"""Get an engine, the base images and our own image, or say in one line why not.

`python -m tests.containers.prepare`

Images that are not here are pulled. Where no registry can be reached, NEXTCLICK_BASE_IMAGES may
name a script that makes them (and may install an engine).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import yaml

from tests.containers.engine import IMAGE, ROOT, Engine, NoEngine, find_engine

SCRIPT_VARIABLE = "NEXTCLICK_BASE_IMAGES"


def base_images() -> Iterator[str]:
    """The images that others make, in full: of the Dockerfile, and of compose's default profile."""
    names = set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    names |= {s["image"] for s in services.values() if "profiles" not in s}
    for name in sorted(names - {IMAGE}):
        yield f"docker.io/{name}" if "/" in name else f"docker.io/library/{name}"


def missing(engine: Engine) -> list[str]:
    """The base images that the engine does not have."""
    return [image for image in base_images() if not engine.succeeds("image", "inspect", image)]


def prepared() -> Engine:
    """Find an engine that has the base images, by making or pulling them if need be.

    Raises NoEngine if there is none or an image cannot be had.
    """
    script = os.environ.get(SCRIPT_VARIABLE)
    try:
        complete = not missing(find_engine())
    except NoEngine:
        if not script:
            raise
        complete = False
    if not complete and script:
        subprocess.run([script], check=True)
    engine = find_engine()
    for image in missing(engine):
        if subprocess.run([engine.program, "pull", image], check=False).returncode != 0:
            raise NoEngine(
                f"{image} can neither be pulled nor is it here; {SCRIPT_VARIABLE} may name a "
                "script that makes it"
            )
    return engine


def main() -> None:
    """Prepare, and build the image."""
    try:
        engine = prepared()
    except NoEngine as error:
        sys.exit(f"container tests: {error}")
    # The host's network, for a build that may only reach the registries as this machine does.
    began = time.monotonic()
    build = [engine.program, "build", "--network", "host", "--tag", IMAGE, str(ROOT)]
    if subprocess.run(build, check=False).returncode != 0:
        sys.exit(f"container tests: {' '.join(build)} failed, see above")
    size = int(engine.run("image", "inspect", "--format", "{{.Size}}", IMAGE))
    print(f"{IMAGE}: {size / 1e6:.0f} MB, built in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
