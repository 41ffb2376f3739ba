"""Our worker as a process: `python -m nextclick.bench.peers.nextclick_worker [--floor]`."""

from __future__ import annotations

import argparse
import logging
import signal
import threading

from nextclick.bench.worker import Floor
from nextclick.services.worker import main as worker
from nextclick.shared.model import Scorer
from nextclick.shared.runtime.settings import Settings


def main() -> None:
    """Answer the clicks that the settings name until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--floor", action="store_true", help="with a scorer that costs nothing")
    floor = parser.parse_args().floor
    logging.basicConfig(level=logging.INFO)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    worker.run(Settings.from_environment(), stop, Floor if floor else Scorer)


if __name__ == "__main__":
    main()
