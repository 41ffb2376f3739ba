"""Keys, limits on guesses and requests, Host and Origin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nextclick.services.api.access import (
    Access,
    Keys,
    TokenBuckets,
    check_listening_address,
    client_address,
)
from nextclick.services.api.problems import Rejected
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime.masking import redact
from nextclick.shared.runtime.settings import ApiSettings


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def request(
    path: str = "/models", method: str = "GET", address: str = "192.0.2.1", **headers: str
) -> dict[str, Any]:
    given = {"host": "127.0.0.1:8000"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return {
        "type": "http",
        "method": method,
        "path": path,
        "client": (address, 4711),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }


def status(access: Access, scope: dict[str, Any]) -> int:
    """The status of the refusal; 200 if there is none."""
    try:
        access.check(scope)
    except Rejected as error:
        return error.status
    return 200


def test_a_bucket_holds_a_burst_and_refills(clock: Clock) -> None:
    buckets = TokenBuckets(2, 3, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now = 0.25
    assert buckets.seconds_until_token("a") == 0.25
    clock.now = 0.5
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.5]
    clock.now = 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_buckets_are_bounded(clock: Clock) -> None:
    buckets = TokenBuckets(1, 1, most=100, clock=clock)
    for number in range(1000):
        buckets.take(f"address {number}")
    assert len(buckets) == 100
    assert buckets.take("address 999") > 0
    assert buckets.take("address 1") == 0


def test_only_a_key_opens() -> None:
    access = Access(Keys("open sesame"))
    assert status(access, request()) == 401
    assert status(access, request(x_api_key="open")) == 401
    assert status(access, request(x_api_key="")) == 401
    assert status(access, request(x_api_key="ü")) == 401
    assert status(access, request(x_api_key="open sesame")) == 200
    assert status(access, request(authorization="Bearer open sesame")) == 200
    assert status(access, request(authorization="Basic open sesame")) == 401
    assert status(access, request("/healthz")) == status(access, request("/readyz")) == 200
    for path in ("/metrics", "/docs", "/openapi.json", "/", "/healthz/", "//healthz", "/nothing"):
        assert status(access, request(path)) == 401
    assert status(access, {**request("/"), "type": "websocket"}) == 401


def test_paths_of_a_page_can_be_open_and_its_visitors_signed_in() -> None:
    access = Access(Keys("open sesame"))
    access.open_paths.add("/sign-in")
    access.open_folders = ("/files/",)
    access.is_signed_in = lambda scope: (b"cookie", b"ours") in scope["headers"]
    assert status(access, request("/sign-in")) == status(access, request("/files/a.js")) == 200
    assert status(access, request("/files")) == 401
    assert status(access, request(cookie="ours")) == 200
    assert status(access, request(cookie="other")) == 401


def test_guesses_are_limited_by_address(clock: Clock) -> None:
    access = Access(Keys("right"), wrong_keys_per_minute=3, clock=clock)
    wrong, right = request(x_api_key="wrong"), request(x_api_key="right")
    for _ in range(100):
        assert status(access, right) == 200, "right keys do not count"
    assert [status(access, wrong) for _ in range(4)] == [401, 401, 401, 429]
    assert status(access, right) == 429, "else one could go on and see whether it opens"
    with pytest.raises(Rejected) as refused:
        access.check(right)
    assert refused.value.headers == {"Retry-After": "20"}
    assert status(access, request(x_api_key="right", address="192.0.2.2")) == 200
    assert status(access, request("/healthz", x_api_key="wrong")) == 200
    clock.now = 20
    assert status(access, right) == 200


def test_an_ipv6_network_is_one_address() -> None:
    first, second = (client_address({"client": (a, 1)}) for a in ("2001:db8::1", "2001:db8::2:3"))
    assert first == second == "2001:db8::/64"
    assert client_address({"client": ("2001:db8:0:1::1", 1)}) != first
    assert client_address({"client": ("192.0.2.7", 1)}) == "192.0.2.7"
    assert client_address({"client": None}) == "unknown"


def test_requests_are_limited_by_key(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\ntwo\n")
    access = Access(Keys("", str(file), clock), requests_per_second=2, clock=clock)
    one, two = request(x_api_key="one"), request(x_api_key="two", address="192.0.2.2")
    assert [status(access, one) for _ in range(3)] == [200, 200, 429]
    assert status(access, two) == 200
    clock.now = 0.5
    assert [status(access, one), status(access, one)] == [200, 429]


def test_keys_are_rotated_without_a_restart(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("old key\r\n\n  new key  \n")
    keys = Keys("always", str(file), clock)
    assert all(keys.name_of(key) for key in ("old key", "new key", "always"))
    assert keys.name_of("old key") != keys.name_of("new key")
    assert keys.name_of("") is None
    file.write_text("new key\n")
    assert keys.name_of("old key"), "it is read once a second"
    clock.now = 1
    assert keys.name_of("old key") is None
    assert keys.name_of("new key")
    assert keys.name_of("always")
    os.remove(file)
    clock.now = 2
    assert keys.name_of("new key"), "the last keys stay"
    assert "new key" not in redact([], "it said: new key")


def test_a_file_without_keys_is_no_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(ConfigurationError, match=r"API__KEY_FILE = .* cannot be read"):
        Keys("", str(file))
    file.write_text(" \n\n")
    with pytest.raises(ConfigurationError, match=r"API__KEY_FILE = .* has no key"):
        Keys("", str(file))


def test_without_a_key_only_names_of_this_machine_are_answered() -> None:
    access = Access(Keys(""))
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"):
        assert status(access, request(host=host)) == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[", ""):
        assert status(access, request(host=host)) == 421
    assert status(access, {**request(), "headers": []}) == 200  # HTTP/1.0: no browser
    assert status(access, request("/readyz", host="10.0.0.7")) == 200  # Kubernetes


def test_allowed_hosts() -> None:
    access = Access(Keys("right"), allowed_hosts=["shop.example"])
    assert status(access, request(x_api_key="right", host="shop.example:443")) == 200
    assert status(access, request(x_api_key="right")) == 421
    assert status(Access(Keys("right")), request(x_api_key="right", host="any.example")) == 200
    assert status(Access(Keys(""), allowed_hosts=["*"]), request(host="any.example")) == 200


def test_pages_of_others_may_change_nothing() -> None:
    access = Access(Keys(""))

    def post(origin: str, **headers: str) -> int:
        return status(access, request("/clicks", "POST", origin=origin, **headers))

    assert post("http://127.0.0.1:8000") == 200
    for origin in ("http://evil.example", "http://127.0.0.1:9000", "null", "", "http://[", "x"):
        assert post(origin) == 403
        assert status(access, request("/denied/1", "DELETE", origin=origin)) == 403
        assert status(access, {**request(origin=origin), "method": None}) == 403  # a WebSocket
        assert status(access, request("/models", origin=origin)) == 200  # it cannot read this
    behind_proxy = Access(Keys("right"), allowed_hosts=["shop.example", "internal"])
    click = request("/clicks", "POST", x_api_key="right", host="internal")
    click["headers"].append((b"origin", b"https://shop.example"))
    assert status(behind_proxy, click) == 200


def test_without_a_key_it_listens_on_this_machine_only(tmp_path: Path) -> None:
    check_listening_address(ApiSettings())
    with pytest.raises(ConfigurationError, match="without a key"):
        check_listening_address(ApiSettings(host="0.0.0.0"))
    check_listening_address(ApiSettings.model_validate({"host": "0.0.0.0", "key": "k"}))
    check_listening_address(ApiSettings(host="0.0.0.0", key_file="f"))
