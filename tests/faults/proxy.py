"""A TCP proxy in front of a server of a test, which does what a bad network does."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

CHUNK = 65_536

T = TypeVar("T")


class Proxy:
    """Passes bytes between clients and a port of this machine, from a thread of its own.

    Every connection keeps the order of its bytes. What a client has sent arrives even if the client
    has hung up meanwhile: late, and after what it sent on a later connection.
    """

    def __init__(self, target_port: int, seed: int = 0) -> None:
        """Listen; the server need not be there yet. `seed` is for the cuts."""
        self._target = target_port
        self._random = random.Random(seed)
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.request_delay = 0.0
        """How late requests arrive, seconds."""
        self.bytes_per_second = float("inf")
        """Of each connection, in each direction."""
        self.cut_share = 0.0
        """Share of the requests that cost the connection: half of them arrive, half do not."""
        self.cuts = 0
        self._swallows = False

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    def swallow_answers(self) -> None:
        """From now on requests arrive and answers do not."""
        self._swallows = True

    def pass_answers(self) -> None:
        """Let answers through again; connections on which one was swallowed are cut."""
        self._swallows = False
        self._run(self._cut_lossy())

    def close(self) -> None:
        """Cut everything and end the thread."""
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _cut_lossy(self) -> None:
        for connection in [c for c in self._connections if c.lossy]:
            connection.cut()

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for connection in self._connections for task in connection.tasks]
        for connection in list(self._connections):
            connection.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # it is away
            writer.transport.abort()
            return
        connection = _Connection(writer, server[1])
        self._connections.add(connection)
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        connection.tasks = [
            asyncio.create_task(work)
            for work in (
                self._receive(connection, reader, late),
                self._deliver(connection, late),
                self._answer(connection, server[0]),
            )
        ]
        await asyncio.gather(*connection.tasks, return_exceptions=True)
        connection.cut()
        self._connections.discard(connection)

    async def _receive(
        self,
        connection: _Connection,
        client: asyncio.StreamReader,
        late: asyncio.Queue[tuple[float, bytes]],
    ) -> None:
        """Take what the client sends; an empty piece is its end."""
        piece = b"-"
        while piece:
            try:
                piece = await client.read(CHUNK)
            except OSError:
                piece = b""
            if piece and self._random.random() < self.cut_share:
                self.cuts += 1
                if self._random.random() < 0.5:
                    piece = b""
                else:
                    late.put_nowait((0.0, piece))
                connection.client.transport.abort()
                piece = b""
            late.put_nowait((self._loop.time() + self.request_delay, piece))
            await asyncio.sleep(len(piece) / self.bytes_per_second)

    async def _deliver(
        self, connection: _Connection, late: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        """Give the server each piece when it is due, and then hang up."""
        while True:
            due, piece = await late.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            if not piece:
                break
            connection.server.write(piece)
            await connection.server.drain()
        if connection.server.can_write_eof():
            connection.server.write_eof()

    async def _answer(self, connection: _Connection, server: asyncio.StreamReader) -> None:
        while piece := await server.read(CHUNK):
            if self._swallows or connection.lossy:
                connection.lossy = True
            elif not connection.client.is_closing():
                connection.client.write(piece)
                await asyncio.sleep(len(piece) / self.bytes_per_second)
        connection.client.close()


class _Connection:
    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.lossy = False
        """An answer was swallowed: what follows on it would make no sense."""
        self.tasks: list[asyncio.Task[None]] = []

    def cut(self) -> None:
        """Reset both sides."""
        self.client.transport.abort()
        self.server.transport.abort()
