"""Simulated time, and the processes and threads that live in it. One thread runs at a time."""

from __future__ import annotations

import contextlib
import heapq
import threading
from collections.abc import Callable

from greenlet import getcurrent, greenlet

Action = Callable[[], object]


class Crash(BaseException):
    """The process of whoever hears this is dead."""


class World:
    """The clock, and what happens when.

    `now` is in seconds. Events of one moment happen in the order in which they were made.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.stopped = False
        self.trace: list[str] | None = None
        """Lines of a readable history, if somebody wants them."""
        self._events: list[tuple[float, int, Process | None, Action]] = []
        self._made = 0
        self._hub = getcurrent()
        self._processes: list[Process] = []

    def at(self, when: float, action: Action, owner: Process | None = None) -> None:
        """Do something later.

        If it is a process that does it: never if it is dead then, and later if it is paused.
        """
        self._made += 1
        heapq.heappush(self._events, (when, self._made, owner, action))

    def after(self, seconds: float, action: Action, owner: Process | None = None) -> None:
        """The same, `seconds` from now."""
        self.at(self.now + seconds, action, owner)

    def run(self) -> None:
        """Let time pass until somebody sets `stopped`, or nothing is left to happen."""
        events = self._events
        while events and not self.stopped:
            when, made, owner, action = heapq.heappop(events)
            if owner is not None:
                if not owner.alive:
                    continue
                if owner.paused_until > when:
                    heapq.heappush(events, (owner.paused_until, made, owner, action))
                    continue
            if when > self.now:
                self.now = when
            with contextlib.suppress(Crash):
                action()

    def close(self) -> None:
        """Kill everybody, so that no greenlet is left in the middle of something."""
        for process in self._processes:
            process.kill()
        self.stopped = False
        self._events = [event for event in self._events if event[2] is None]
        for process in self._processes:
            process.bury()

    def process(self, name: str) -> Process:
        """Make a process; it lives, and does nothing yet."""
        process = Process(self, name)
        self._processes.append(process)
        return process

    def say(self, who: str, what: str) -> None:
        """Note something for whoever reads the history."""
        if self.trace is not None:
            self.trace.append(f"{self.now:9.4f}  {who:<10} {what}")

    @property
    def in_thread(self) -> bool:
        """Whether a thread of a process runs, and not the world itself."""
        return getcurrent() is not self._hub

    def _wait(self) -> None:
        self._hub.switch()


class Process:
    """Threads that die together, with a clock that others can set."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.paused_until = 0.0
        self.clock_skew = 0.0
        """How far its wall clock is ahead."""
        self.on_death: Action = lambda: None
        """Called by the hub."""
        self._threads: list[Thread] = []

    def thread(self, target: Action, name: str = "", daemon: bool = True) -> Thread:
        """Make a thread, as threading.Thread does."""
        thread = Thread(self, target, name)
        self._threads.append(thread)
        return thread

    def sleep(self, seconds: float) -> None:
        """Let time pass for the calling thread."""
        sleeper = Sleeper(self)
        self.world.after(seconds, sleeper.wake, self)
        sleeper.sleep()

    def monotonic(self) -> float:
        """Nobody can set this one."""
        return self.world.now

    def wall(self) -> float:
        """Epoch seconds by this process's clock."""
        return 1_700_000_000.0 + self.world.now + self.clock_skew

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later. The calling thread, if it is one of it, stands still, too."""
        self.paused_until = max(self.paused_until, self.world.now + seconds)
        if self.world.in_thread:
            self.sleep(0)

    def kill(self) -> None:
        """SIGKILL. The calling thread, if it is one of the process, must raise Crash itself."""
        if self.alive:
            self.alive = False
            self.world.at(self.world.now, self.bury)
            self.world.at(self.world.now, self.on_death)

    def bury(self) -> None:
        """Unwind its threads. Called by the hub only."""
        threads, self._threads = self._threads, []
        for thread in threads:
            thread.unwind()

    def forget(self, thread: Thread) -> None:
        """It has ended."""
        if thread in self._threads:
            self._threads.remove(thread)


class Sleeper:
    """A thread that waits to be woken, once."""

    __slots__ = ("_greenlet", "process", "woken")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.woken = False
        self._greenlet = getcurrent()

    def sleep(self) -> None:
        """Wait."""
        if not self.process.alive:
            raise Crash
        self.process.world._wait()

    def wake(self) -> None:
        """Let it go on now. Called by the hub only."""
        if not self.woken:
            self.woken = True
            self._greenlet.switch()


class Signal:
    """Threads of one process wait for it, and all are woken together."""

    __slots__ = ("_process", "_sleepers")

    def __init__(self, process: Process) -> None:
        self._process = process
        self._sleepers: list[Sleeper] = []

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is given; False if that took longer than `seconds`."""
        sleeper = Sleeper(self._process)
        self._sleepers.append(sleeper)
        if seconds is not None:
            self._process.world.after(seconds, sleeper.wake, self._process)
        sleeper.sleep()
        if sleeper in self._sleepers:
            self._sleepers.remove(sleeper)
            return False
        return True

    def give(self) -> None:
        """Wake all who wait."""
        if self._sleepers:
            sleepers, self._sleepers = self._sleepers, []
            world = self._process.world
            for sleeper in sleepers:
                if not sleeper.woken:
                    world.at(world.now, lambda s=sleeper: s.wake(), sleeper.process)  # type: ignore[misc]


class Thread:
    """What BackgroundCall needs of a thread."""

    def __init__(self, process: Process, target: Action, name: str) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self._process = process
        self._target = target
        self._greenlet = greenlet(self._run, process.world._hub)
        self._ended = Signal(process)
        self._alive = True

    def start(self) -> None:
        """Begin to run."""
        self._process.world.at(self._process.world.now, self._greenlet.switch, self._process)

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._alive

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        deadline = None if timeout is None else self._process.world.now + timeout
        while self._alive:
            left = None if deadline is None else deadline - self._process.world.now
            if left is not None and left <= 0:
                return
            self._ended.wait(left)

    def unwind(self) -> None:
        """Its process is dead: raise Crash where it stands."""
        while self._greenlet and not self._greenlet.dead:
            self._greenlet.throw(Crash)

    def _run(self) -> None:
        try:
            self._target()
        except Crash:
            pass
        except BaseException as failure:
            self.failure = failure
        self._alive = False
        self._process.forget(self)
        self._ended.give()


class StopEvent(threading.Event):
    """The worker's `stop`: waiting for it lets simulated time pass."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._signal = Signal(process)

    def set(self) -> None:
        super().set()
        self._signal.give()

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._signal.wait(timeout)
        return self.is_set()
