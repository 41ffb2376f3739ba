"""Calls of a client that may not come back."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka.client import REQUEST_SECONDS

ABANDON_SECONDS = REQUEST_SECONDS + 1
"""After so long a call is taken for one that never returns."""


class BackgroundCall:
    """A call, made by a thread of its own.

    While a coordinator cannot be reached, librdkafka does not heed the timeout of some calls, and
    may even forget to connect again (its issues 5456 and 5511): the thread is then left behind.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        thread: Callable[..., threading.Thread] = threading.Thread,
    ) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._thread = thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # for the thread that asks for the outcome
            self._error = error
        except:  # noqa: E722  a bare KafkaError of confluent-kafka, which is no BaseException
            self._error = Unavailable(f"the Kafka client failed: {sys.exc_info()[1]}")

    @property
    def ended(self) -> bool:
        """Whether `outcome` would return at once."""
        return not self._thread.is_alive()

    def outcome(self, timeout: float = ABANDON_SECONDS) -> None:
        """Wait until the call has returned; raise what it raised.

        Raises Unavailable if it has not after `timeout` seconds; asking again is right.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise Unavailable(f"Kafka did not answer a {self._thread.name} within {timeout:g} s")
        if self._error is not None:
            raise self._error
