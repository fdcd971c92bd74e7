"""The way from JAX's client to JAX's service: a port in each process that outlives the service.

JAX's client aborts its process as soon as its connection ends. Through a relay it notices nothing when
process 0 has gone, and Python says so instead.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from flaxmill.sharding.processes.door import Door, Reader, Writer, pump

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # a client of gRPC begins with it (RFC 9113, 3.4)
_LIMIT = 1 << 16
_SERVICE_SECONDS = 20.0  # JAX's service starts a moment after all have met
_RETRY_SECONDS = 0.02

Connect = Callable[[], Awaitable[tuple[Reader, Writer]]]


class Relay:
    """A port of this machine that leads a client of gRPC to a far end.

    When the far end has gone the near one stays open: to JAX that is a slow answer, not an error.

    Args:
      connect: opens the way to the far end; may fail while the far end is still starting.
      lost: is set, once the relay is settled, when no far end that it led to is there any more.
    """

    def __init__(self, connect: Connect, lost: threading.Event) -> None:
        self._connect, self._lost = connect, lost
        self._num_live, self._has_lost_one, self._is_settled = 0, False, False
        listener = socket.create_server(("127.0.0.1", 0))
        self._door = Door(
            listener, lambda reader: reader.readexactly(len(_PREFACE)), self._admit, limit=_LIMIT
        )
        self.port = self._door.port

    def settle(self) -> None:
        """JAX has connected: nobody else may, and from now on it counts if the far end has gone."""
        self._door.shut()
        self._is_settled = True
        self._tell_if_lost()

    def close(self) -> None:
        """End the port and its connections."""
        self._door.close()

    async def _admit(self, opening: bytes, near: Reader, near_writer: Writer) -> None:
        if opening != _PREFACE:
            return
        far, far_writer = await _until_there(self._connect)
        far_writer.write(opening)
        self._num_live += 1
        forward = asyncio.ensure_future(pump(near, far_writer))
        back = asyncio.ensure_future(pump(far, near_writer))
        try:
            await asyncio.wait((forward, back), return_when=asyncio.FIRST_COMPLETED)
            near_has_left = near.at_eof() or near.exception() is not None
            self._num_live -= 1
            if not near_has_left:
                self._has_lost_one = True
                self._tell_if_lost()
                forward.cancel()
                await asyncio.wait((forward,))
                with suppress(OSError):
                    while await near.read(_LIMIT):
                        pass
        finally:
            forward.cancel()
            back.cancel()
            far_writer.transport.abort()

    def _tell_if_lost(self) -> None:
        # A stranger's connection that ended says nothing about JAX's.
        if self._is_settled and self._has_lost_one and not self._num_live:
            self._lost.set()


async def lead_to(find_path: Callable[[], str | None], near: Reader, near_writer: Writer) -> None:
    """Connect a relay with the UNIX socket of JAX's service until one of the two ends."""

    async def connect() -> tuple[Reader, Writer]:
        path = find_path()
        if path is None:
            raise ConnectionError("not there yet")
        return await asyncio.open_unix_connection(path, limit=_LIMIT)

    far, far_writer = await _until_there(connect)
    ways = [asyncio.ensure_future(pump(near, far_writer)), asyncio.ensure_future(pump(far, near_writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        far_writer.transport.abort()


async def _until_there(connect: Connect) -> tuple[Reader, Writer]:
    deadline = time.monotonic() + _SERVICE_SECONDS
    while True:
        try:
            return await connect()
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_RETRY_SECONDS)
