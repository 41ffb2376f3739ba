"""Write docs/page-*.png: the live page of a running demo, in a headless Chromium.

Run by `make screenshots`. Needs Debian's chromium.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
VIEWPORTS = {"page": (1440, 1240), "page-phone": (390, 844)}
"""Width and height. The wide picture ends below the shopper's list, the other is the whole page."""
CLICKED = ("Puppy Food", "Food Bowl")
WATCH_MS = 90_000
"""For so long the page follows the stream before the first picture."""
SETTLE_MS = 4_000
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def main() -> None:
    """Start a demo, take the pictures, stop it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no chromium here")
    command = [sys.executable, "-m", "nextclick", "demo", "--seconds", "0", "--rate", "100"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        matches = (re.search(r"live page: (\S+)", line) for line in demo.stdout)
        address = next(match[1] for match in matches if match)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name, (width, height) in VIEWPORTS.items():
                page: Page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(address)
                page.wait_for_timeout(WATCH_MS if name == "page" else SETTLE_MS)
                _click(page)
                for scheme in SCHEMES:
                    page.emulate_media(color_scheme=scheme)
                    page.wait_for_timeout(SETTLE_MS)
                    page.screenshot(
                        path=DOCS / f"{name}-{scheme}.png", full_page=name == "page-phone"
                    )
                    if name == "page":
                        shopper = page.locator("#be-the-shopper")
                        shopper.screenshot(path=DOCS / f"page-shopper-{scheme}.png")
                page.close()
            browser.close()
    finally:
        demo.terminate()
        demo.wait()


def _click(page: Page) -> None:
    """Be the shopper."""
    for item in CLICKED:
        page.get_by_label("Find an item to click").fill(item)
        page.get_by_role("option", name=item).first.click()
        page.get_by_text(f"You clicked {item}").wait_for()
    page.get_by_label("Find an item to click").blur()


if __name__ == "__main__":
    main()
