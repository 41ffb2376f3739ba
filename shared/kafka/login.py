"""The password of Kafka in a file (NEXTCLICK_KAFKA__SASL_PASSWORD_FILE), which may change."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime.rate_limit import RateLimit
from nextclick.shared.runtime.secret_file import read_secret
from nextclick.shared.runtime.settings import KafkaSettings

log = logging.getLogger(__name__)

SETTING = "NEXTCLICK_KAFKA__SASL_PASSWORD_FILE"

READ_SECONDS = 1.0
"""Between two looks at the file."""


def login_options(settings: KafkaSettings) -> dict[str, Any]:
    """The options of a client for the password that is in the file now; none without a file.

    Raises ConfigurationError if it cannot be read, or does not go with the client_config.
    """
    if not settings.sasl_password_file:
        return {}
    return {"sasl.password": read_password(settings)}


def read_password(settings: KafkaSettings) -> str:
    """The password in the file now. Raises as `login_options` does."""
    options = settings.client_config
    if "sasl.password" in options or not options.get("sasl.username"):
        raise ConfigurationError(
            f"with {SETTING}, NEXTCLICK_KAFKA__CLIENT_CONFIG must have sasl.username, and no "
            "sasl.password"
        )
    return read_secret(settings.sasl_password_file, SETTING)


class Login:
    """Keeps the password of one client up to date with the file that holds it.

    librdkafka logs in with it at its next connection; those that are open stay open. The owner of
    the client calls `renew` before it uses it: another thread might meet a client that was closed.
    """

    def __init__(
        self, settings: KafkaSettings, client: Any, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._client = client
        self._clock = clock
        self._read_at: float | None = None
        self._password = ""
        self._warnings = RateLimit(clock)

    def is_outdated(self) -> bool:
        """Whether the file has another password by now than the client was given."""
        if not self._settings.sasl_password_file:
            return False
        with contextlib.suppress(ConfigurationError):
            return read_password(self._settings) != self._password
        return False

    def renew(self) -> None:
        """Look at the file, at most once in READ_SECONDS; without a file do nothing.

        If it cannot be read the client keeps the password that it has.
        """
        if not self._settings.sasl_password_file:
            return
        now = self._clock()
        if self._read_at is not None and now - self._read_at < READ_SECONDS:
            return
        self._read_at = now
        try:
            password = read_password(self._settings)
        except ConfigurationError as error:  # it is being replaced, or was removed
            if self._warnings.allow():
                log.warning("the password for Kafka stays as it was: %s", error)
            return
        if password != self._password:
            self._client.set_sasl_credentials(
                str(self._settings.client_config["sasl.username"]), password
            )
            self._password = password
