"""Write docs/page-*.png: the live page of a running demo, in a headless Chromium.

Run by `make screenshots`. Needs Debian's chromium.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
SHOTS = {
    "page-light": (1440, 900, "light"),
    "page-dark": (1440, 900, "dark"),
    "page-phone-light": (390, 844, "light"),
    "page-phone-dark": (390, 844, "dark"),
}
WATCH_MS = 45_000
"""For so long the page follows the stream before the first picture."""


def main() -> None:
    """Start a demo, take the pictures, stop it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no chromium here")
    command = [sys.executable, "-m", "services.cli", "demo", "--seconds", "0", "--rate", "100"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        said = (re.search(r"live page: (\S+)", line) for line in demo.stdout)
        address = next(found[1] for found in said if found)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name, (width, height, scheme) in SHOTS.items():
                page: Page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page.goto(address)
                page.wait_for_timeout(WATCH_MS if name == "page-light" else 4000)
                page.screenshot(path=DOCS / f"{name}.png", full_page=True)
                page.close()
            browser.close()
    finally:
        demo.terminate()
        demo.wait()


if __name__ == "__main__":
    main()
