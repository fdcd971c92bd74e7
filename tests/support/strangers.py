"""Strangers that connect to a port that is not for them, in every way that a network allows."""

import itertools
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from flaxmill.sharding.processes.greetings import GreetedJob, Member

OTHER_JOB = GreetedJob("bert_tiny in /elsewhere", 7)
HALF_OPEN = 200  # connections that stay open at a time

SAYINGS = (
    *(b"", b"\n", b"\0" * 100, b'["flaxmill"]\n', b'["flaxmill","x",2,"h",1]\n', b'["flaxmill",1,2,"h",1]\n'),
    *(
        b'["flaxmill",2,"member"]\n',
        b"{" * 5000 + b"\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01",
    ),
    *(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        b"SSH-2.0-x\r\n",
        b"9" * 7000 + b"\n",
        b'["flaxmill",2,',
    ),
    *(OTHER_JOB.greet("member", 1, Member("h", 1)), OTHER_JOB.greet("relay", 1, Member("h", 1))),
)


def listens(port: int) -> bool:
    """Whether a process listens on the port; found out without connecting."""
    tables = (Path(f"/proc/net/{name}") for name in ("tcp", "tcp6"))
    return any(f":{port:04X} 0" in table.read_text() for table in tables if table.exists())


def visit(port: int, number: int, seed: int = 0, until: Callable[[], bool] = lambda: False) -> int:
    """Make `number` connections to a port of this machine, one after another; returns how many, at least 1.

    They say something, or nothing, or far too much; they go, break off, or stay half open.
    """
    moments = random.Random(seed)
    staying: list[socket.socket] = []
    made = 0
    for made in itertools.count(1):
        with suppress(OSError):
            staying += _visit_once(port, moments)
        while len(staying) > HALF_OPEN:
            staying.pop(0).close()
        if made == number or until():
            break
    for connection in staying:
        connection.close()
    return made


def _visit_once(port: int, moments: random.Random) -> Iterator[socket.socket]:
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.settimeout(1)
    with suppress(OSError):
        kind = moments.random()
        if kind < 0.6:
            connection.sendall(moments.choice(SAYINGS))
        elif kind < 0.7:
            connection.sendall(moments.randbytes(moments.randint(1, 4000)))
        elif kind < 0.75:
            connection.sendall(moments.randbytes(1 << 20))  # nobody reads it
        elif kind < 0.85:
            # Breaks off: a reset follows, not an end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.send(b"[")
    if moments.random() < 0.3:
        yield connection
    else:
        connection.close()


def dribble(port: int, seconds: float) -> float:
    """Send a line that never ends, byte by byte; returns the seconds after which the other end closed it."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection, suppress(OSError):
        while time.monotonic() < started + seconds:
            connection.sendall(b"[")
            connection.settimeout(0.1)
            with suppress(TimeoutError):
                if not connection.recv(64):
                    break
    return time.monotonic() - started
