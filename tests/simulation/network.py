"""Requests from a process to a server.

A connection keeps the order of requests and of answers, as TCP does. An answer may be lost with
the connection, after the request was heard or before; the client then asks again on a new one. A
request may be held: TCP keeps it, or something in between does, while the client gives up and
connects anew, so that it arrives after requests that were made later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation.faults import ANSWER_LOST, DIES_AFTER, HELD, REQUEST_LOST, Faults
from tests.simulation.scheduler import Crash, Process, Signal, World

Reply = Callable[[Any], None]
Handler = Callable[[Reply], None]


class _Broken:
    def __repr__(self) -> str:
        return "connection broken"


BROKEN = _Broken()
"""Instead of an answer: nobody knows whether the request was heard."""

RETRY_SECONDS = 0.1
"""librdkafka's retry.backoff.ms."""


class TimedOut(Exception):
    """No answer within the time; the request may still be on its way."""


class Server:
    """Kafka or Redis, as far as it can be away."""

    def __init__(self, world: World, name: str, faults: Faults) -> None:
        self.world = world
        self.name = name
        self.faults = faults
        self.down_until = 0.0
        self.held = 0
        """Requests that are held somewhere."""
        self.when_down: list[Callable[[], None]] = []
        self.when_back: list[Callable[[], None]] = []

    @property
    def down(self) -> bool:
        """Whether nobody gets an answer."""
        return self.world.now < self.down_until

    def go_down(self, seconds: float) -> None:
        """Be away for so long."""
        self.down_until = max(self.down_until, self.world.now + seconds)
        self.world.at(self.down_until, self._come_back)
        for action in self.when_down:
            action()

    def _come_back(self) -> None:
        if not self.down:
            for action in self.when_back:
                action()


class Connection:
    """What one client has to one server, made anew whenever it breaks."""

    def __init__(self, process: Process, server: Server, purpose: str) -> None:
        self.process = process
        self.server = server
        self._purpose = purpose
        self._world = process.world
        self._faults = server.faults
        self._arrived = 0.0
        self._answered = 0.0

    def send(self, what: str, handler: Handler, answered: Reply) -> None:
        """Send one request.

        `handler` is called when it arrives, with what takes the answer; `answered` is called with
        it, or with BROKEN. Raises Crash if the process dies here.
        """
        world, process, server = self._world, self.process, self.server
        fault = self._faults.at_request(process, what)
        kind = fault.kind if fault is not None else ""
        if kind == REQUEST_LOST:
            world.after(self._faults.latency(), lambda: answered(BROKEN), process)
            return
        arrives = world.now + self._faults.latency()
        if fault is not None and kind == HELD:
            arrives += fault.seconds
            server.held += 1
        if arrives < self._arrived:
            arrives = self._arrived
        self._arrived = arrives
        connection = self._connection_now()

        def reply(answer: Any) -> None:
            if kind == ANSWER_LOST:
                answer = BROKEN
            if not process.alive:
                return
            when = world.now + self._faults.latency()
            if connection is self._connection:
                self._answered = when = max(when, self._answered)
            world.at(when, lambda: answered(answer), process)

        def arrive() -> None:
            if kind == HELD:
                server.held -= 1
                world.say(server.name, f"{what} of {process.name} arrives late")
            if server.down:
                reply(BROKEN)
            else:
                handler(reply)

        world.at(arrives, arrive)
        if kind == DIES_AFTER:
            process.kill()
            raise Crash

    _connection: object = None

    def _connection_now(self) -> object:
        if self._connection is None:
            self._connection = object()
        return self._connection

    def reset(self) -> None:
        """Connect anew: what is sent from now on does not wait for what is held."""
        self._arrived = self._answered = 0.0
        self._connection = None

    def request(self, what: str, handler: Handler, timeout: float | None) -> Any:
        """Send a request, again if the connection breaks, and wait for the answer.

        Raises TimedOut. Another thread of the process may run meanwhile.
        """
        world, process = self._world, self.process
        deadline = None if timeout is None else world.now + timeout
        while True:
            left = None if deadline is None else deadline - world.now
            answer = self._ask(what, handler, left)
            if answer is not BROKEN:
                return answer
            if deadline is not None and world.now + RETRY_SECONDS >= deadline:
                raise TimedOut(what)
            process.sleep(RETRY_SECONDS)

    def request_once(self, what: str, handler: Handler, timeout: float) -> Any:
        """The same, but None if the connection breaks."""
        answer = self._ask(what, handler, timeout)
        return None if answer is BROKEN else answer

    def _ask(self, what: str, handler: Handler, timeout: float | None) -> Any:
        deadline = None if timeout is None else self._world.now + timeout
        answers: list[Any] = []
        came = Signal(self.process)

        def answered(answer: Any) -> None:
            answers.append(answer)
            came.give()

        self.send(what, handler, answered)
        while not answers:
            left = None if deadline is None else deadline - self._world.now
            if left is not None and left <= 0:
                self.reset()
                raise TimedOut(what)
            came.wait(left)
        if answers[0] is BROKEN:
            self.reset()
        return answers[0]
