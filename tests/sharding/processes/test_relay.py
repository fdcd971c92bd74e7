"""JAX reaches its service through a relay that outlives it and mistakes no stranger's end for its own."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from strangers import visit

from flaxmill.sharding.processes.relay import Relay

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def lost() -> threading.Event:
    return threading.Event()


@pytest.fixture
def relay(server, lost) -> Iterator[Relay]:
    opened = Relay(lambda: asyncio.open_connection(*server.getsockname()), lost)
    yield opened
    opened.close()


def connect(relay: Relay, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Connect through the relay; returns both ends."""
    near = socket.create_connection(("127.0.0.1", relay.port), timeout=10)
    near.sendall(PREFACE)
    far, _ = server.accept()
    far.settimeout(10)
    assert far.recv(64) == PREFACE
    return near, far


def test_a_relay_stays_open_when_the_far_end_is_gone(relay, server, lost):
    near, far = connect(relay, server)
    with near:
        near.sendall(b"question")
        assert far.recv(64) == b"question"
        far.sendall(b"answer")
        assert near.recv(64) == b"answer"
        relay.settle()
        assert not lost.wait(0.2)
        far.close()
        assert lost.wait(10)
        near.sendall(b"another question")
        near.settimeout(0.2)
        with pytest.raises(TimeoutError):
            near.recv(64)


def test_what_was_lost_before_it_was_settled_is_told_then(relay, server, lost):
    near, far = connect(relay, server)
    with near:
        far.close()
        assert not lost.wait(0.3)
        relay.settle()
        assert lost.wait(10)


def test_a_relay_that_its_own_end_leaves_reports_nothing(relay, server, lost):
    near, far = connect(relay, server)
    relay.settle()
    near.close()
    assert far.recv(64) == b""
    far.close()
    assert not lost.wait(0.3)


def test_much_passes_both_ways_unchanged(relay, server):
    near, far = connect(relay, server)
    content = bytes(range(256)) * 40_000
    with near, far:
        for source, target in ((near, far), (far, near)):
            sending = threading.Thread(target=source.sendall, args=(content,))
            sending.start()
            received = b""
            while len(received) < len(content):
                received += target.recv(1 << 16)
            sending.join()
            assert received == content


def test_strangers_reach_nothing_and_their_end_is_not_the_far_ones(relay, server, lost):
    near, far = connect(relay, server)
    with near, far:
        visit(relay.port, 300)
        # A stranger that begins as a client of gRPC is passed on; the service sends it away.
        other, other_far = connect_past_strangers(relay, server)
        other_far.close()
        relay.settle()
        assert not lost.wait(0.3)
        other.close()
        far.sendall(b"still here")
        assert near.recv(64) == b"still here"
        far.close()
        assert lost.wait(10)


def connect_past_strangers(relay: Relay, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """As `connect`, but waiting visitors that began as a client of gRPC are sent away first."""
    near = socket.create_connection(("127.0.0.1", relay.port), timeout=10)
    near.sendall(PREFACE + b"mine")
    while True:
        far, _ = server.accept()
        far.settimeout(1)
        said = b""
        deadline = time.monotonic() + 1
        while len(said) < len(PREFACE) + 4 and time.monotonic() < deadline:
            said += far.recv(64)
        if said == PREFACE + b"mine":
            return near, far
        far.close()


def test_a_settled_relay_lets_nobody_in(relay, server):
    near, far = connect(relay, server)
    with near, far:
        relay.settle()
        time.sleep(0.2)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", relay.port))
        far.sendall(b"still here")
        assert near.recv(64) == b"still here"
