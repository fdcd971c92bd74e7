"""A port that withstands strangers: a connection has little time and room to say who it is.

One thread serves all of its connections. However many are open, slow or endless, they cost a bounded part of
memory and of file descriptors, and keep nobody out who says at once what is expected.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

OPENING_SECONDS = 5.0
"""The time that a connection has to say who it is."""
MAX_UNKNOWN = 128
"""The most connections that have not said it yet; beyond that, the oldest is closed."""
_AT_ONCE, _WAITING = 32, 1024
"""How many are let in before earlier ones are read, and how many may wait outside."""
_READ_BYTES = 1 << 16

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Result = TypeVar("Result")


class Door:
    """Serves a listening socket until it is closed.

    Args:
      read_opening: reads what a connection must begin with; may fail in any way that a stream does.
      admit: is given the opening, b"" if it did not come, and the connection, which is closed on return.
      limit: the most bytes of a line, and of a connection's data that waits to be read.
    """

    def __init__(
        self,
        listener: socket.socket,
        read_opening: Callable[[Reader], Awaitable[bytes]],
        admit: Callable[[bytes, Reader, Writer], Awaitable[None]],
        *,
        limit: int,
    ) -> None:
        self.port: int = listener.getsockname()[1]
        self._read_opening, self._admit = read_opening, admit
        self._unknown: dict[asyncio.Task[Any], Writer] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        # A stranger that breaks its connection at the worst moment is no news.
        self._loop.set_exception_handler(lambda loop, context: None)
        self._shut, self._closing = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(listener, limit), name=f"door-{self.port}", daemon=True
        )
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, Result], seconds: float) -> Result | None:
        """The coroutine's result, computed on this door's thread; None where that took too long."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            return None

    def shut(self) -> None:
        """Let nobody in any more; connections that are in stay."""
        self._loop.call_soon_threadsafe(self._shut.set)

    def close(self) -> None:
        """Close the port and all connections."""
        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._closing.set)
            self._loop.call_soon_threadsafe(self._shut.set)
        self._thread.join()

    def _run(self, listener: socket.socket, limit: int) -> None:
        try:
            self._loop.run_until_complete(self._serve(listener, limit))
        finally:
            self._loop.close()

    async def _serve(self, listener: socket.socket, limit: int) -> None:
        server = await asyncio.start_server(self._receive, sock=listener, limit=limit, backlog=_AT_ONCE)
        listener.listen(_WAITING)
        await self._shut.wait()
        server.close()
        await self._closing.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _receive(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._unknown[task] = writer
        if len(self._unknown) > MAX_UNKNOWN:
            self._unknown.pop(next(iter(self._unknown))).transport.abort()
        try:
            opening = await self._opening(reader)
            self._unknown.pop(task, None)
            with suppress(OSError):
                await self._admit(opening, reader, writer)
        finally:
            self._unknown.pop(task, None)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _opening(self, reader: Reader) -> bytes:
        with suppress(TimeoutError, OSError, ValueError, EOFError):  # late, broken, too long or incomplete
            async with asyncio.timeout(OPENING_SECONDS):
                return await self._read_opening(reader)
        return b""


async def pump(source: Reader, target: Writer) -> None:
    """Pass on all that comes until one of the two ends; waits where the target is slower."""
    with suppress(OSError):
        while data := await source.read(_READ_BYTES):
            target.write(data)
            await target.drain()
