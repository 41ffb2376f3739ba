"""Hit rates on a real log with the whole system: replay, train, serve.

    python -m nextclick.bench.replay rsc15_test.txt

The first part of the log, by time, is replayed at full speed; the trainer fits a model on it, and a
worker answers it, so that Redis holds the sessions. Then the rest is replayed, and each of its
clicks is a hit if its item is in the last list that its user got.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from nextclick.services.demo import local_servers
from nextclick.services.demo.baselines import constant_list
from nextclick.services.demo.local_servers import Processes
from nextclick.services.demo.watcher import Watcher
from nextclick.services.replay.log import ClickFile, load
from nextclick.shared.kafka import ensure_topics
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings
from nextclick.shared.stream_metrics import StreamMetrics

K = 20


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--train-share", type=float, default=0.8, help="of the clicks, by time")
    parser.add_argument("--speed", default="max", help="of the second part")
    options = parser.parse_args()
    clicks = load(options.file)
    folder = Path(tempfile.mkdtemp(prefix="nextclick-replay-"))
    try:
        with local_servers.servers(folder) as environ:
            _run(clicks, int(options.train_share * len(clicks)), options.speed, folder, environ)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(clicks: ClickFile, cut: int, speed: str, folder: Path, environ: dict[str, str]) -> None:
    environ[f"{PREFIX}WORKER__TOP_K"] = str(K)
    kafka = KafkaSettings(bootstrap_servers=environ[f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS"])
    ensure_topics(kafka, kafka.topics)
    past = _part(clicks, range(cut), folder / "past.csv")
    rest = _part(clicks, range(cut, len(clicks)), folder / "rest.csv")

    _nextclick(environ, "replay", str(past), "--speed", "max")
    began = time.monotonic()
    _nextclick(environ, "trainer", "--once")
    print(f"trained on {cut:,} clicks in {time.monotonic() - began:,.0f} s", flush=True)

    most_clicked = Counter(clicks.items[:cut].tolist()).most_common(K)
    popular = {clicks.item_ids[item] for item, _ in most_clicked}
    live = StreamMetrics(baselines={"popularity": constant_list(popular)}, k=K)
    watcher = Watcher(kafka, live)
    services = Processes(folder, environ)
    try:
        services.start("worker", ["worker"])
        services.wait_for_partitions()
        watcher.drain(300)
        live.judged = 0  # clicks that the model was trained on do not count
        live.hits.clear()
        live.latencies_ms.clear()
        began = time.monotonic()
        _nextclick(environ, "replay", str(rest), "--speed", speed, "--now")
        watcher.drain(300)
        seconds = time.monotonic() - began
        services.stop_all()
    finally:
        services.kill_all()
        watcher.close()
    sent = len(clicks) - cut
    print(f"{sent:,} clicks answered in {seconds:,.1f} s, {live.missing} missing")
    print(f"of {live.judged:,} next clicks were among the {K}: {live.hit_rates()}")


def _part(clicks: ClickFile, places: range, path: Path) -> Path:
    rows = (
        f"{clicks.user_ids[clicks.users[i]]},{clicks.item_ids[clicks.items[i]]},{clicks.times[i]}\n"
        for i in places
    )
    with path.open("w") as file:
        file.write("user_id,item_id,timestamp\n")
        file.writelines(rows)
    return path


def _nextclick(environ: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "nextclick", *arguments], env=environ, check=True)


if __name__ == "__main__":
    main()
