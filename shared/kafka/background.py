"""Calls of a Kafka client that may never return, in a thread of their own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from nextclick.shared.errors import Unavailable
from nextclick.shared.kafka.client import REQUEST_SECONDS

ABANDON_SECONDS = REQUEST_SECONDS + 1
"""A call that takes longer is assumed never to return."""


class BackgroundCall:
    """A call in its own thread.

    While a coordinator cannot be reached, librdkafka ignores the timeout of some calls, and may
    never reconnect (its issues 5456 and 5511). The thread is then abandoned.
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
        except BaseException as error:  # raised by `outcome`
            self._error = error
        except:  # noqa: E722  a bare KafkaError of confluent-kafka, which is no BaseException
            self._error = Unavailable(f"the Kafka client failed: {sys.exc_info()[1]}")

    @property
    def ended(self) -> bool:
        """Whether `outcome` would return at once."""
        return not self._thread.is_alive()

    def outcome(self, timeout: float = ABANDON_SECONDS) -> None:
        """Wait until the call has returned; raises the error of the call.

        Raises Unavailable if it has not returned after `timeout` seconds; it can be called again.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise Unavailable(f"Kafka did not answer a {self._thread.name} within {timeout:g} s")
        if self._error is not None:
            raise self._error
