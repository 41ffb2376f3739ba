"""S3 servers for tests: moto in this process, and versitygw, which `make s3-server` builds."""

from __future__ import annotations

import logging
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import fsspec
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from moto.server import ThreadedMotoServer

from nextclick.shared.embedded import free_port
from tests.waiting import until

BUCKET = "models"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI+hunter2/K7MDENG"
VERSITYGW = Path(__file__).parents[2] / "build" / "versitygw"


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    is_moto: bool


only_moto = pytest.mark.parametrize("server", ["moto"], indirect=True)
"""For tests that steer the server."""
only_versitygw = pytest.mark.parametrize(
    "server", [pytest.param("versitygw", marks=pytest.mark.long)], indirect=True
)
"""For tests of what moto does not check."""


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").disabled = True
    port = free_port()
    started = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    started.start()
    yield S3Server(f"http://127.0.0.1:{port}", is_moto=True)
    started.stop()


@pytest.fixture(scope="module")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Its objects are files of a folder."""
    if not VERSITYGW.exists():
        pytest.skip("`make s3-server` builds versitygw")
    address = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("versitygw")
    options = ["--port", address, "--access", ACCESS_KEY, "--secret", SECRET, "--keep-alive"]
    output = folder / "output"
    (folder / "buckets").mkdir()
    with output.open("w") as file:
        process = subprocess.Popen(
            [VERSITYGW, *options, "--quiet", "posix", folder / "buckets"],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{address}",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(connect_timeout=1, retries={"max_attempts": 0}),
        )

        def answers() -> bool:
            assert process.poll() is None, output.read_text()
            with suppress(BotoCoreError):
                client.list_buckets()
                return True
            return False

        until(answers, "versitygw answers")
        client.close()
        yield S3Server(f"http://{address}", is_moto=False)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module", params=["moto", pytest.param("versitygw", marks=pytest.mark.long)])
def server(request: pytest.FixtureRequest) -> S3Server:
    """One after the other."""
    found: S3Server = request.getfixturevalue(request.param)
    return found


def tell(server: S3Server, what: str, value: str = "") -> None:
    """Steer moto."""
    request = urllib.request.Request(
        f"{server.endpoint}/moto-api/{what}", value.encode(), {"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request).close()


@pytest.fixture
def aws(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment as SECURITY.md and docs/scale.md have it, and an empty bucket `models`."""
    variables = {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # it would remember the endpoint
    owner = boto3.resource("s3")
    bucket = owner.create_bucket(Bucket=BUCKET)
    yield variables
    if server.is_moto:
        tell(server, "reset-auth", "inf")
        tell(server, "reset")
    else:
        bucket.objects.delete()
        bucket.delete()
    owner.meta.client.close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
