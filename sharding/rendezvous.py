"""How processes meet before JAX connects them, and a relay that outlives the process they connect to.

JAX's client aborts its process with a stack trace, from a thread of its own, when a process never comes or
as soon as process 0 is gone; these let Python say which process it was instead.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from flaxmill.sharding.launch import Launch, split_address

_GREETING = "flaxmill"
_LONGEST_LINE = 1 << 24
_RETRY_SECONDS = 0.2
_RESTART_SECONDS = 20.0  # how long a process that ended may take to give its port back and to come again


class Member(NamedTuple):
    """A process of the job: its machine's name and its number there."""

    host: str
    pid: int


def meet(launch: Launch, seconds: float) -> list[Member]:
    """Return when all processes are here, in each of them; by process index.

    Raises:
      ConnectionError: some did not come within `seconds` or contradict each other; one line, in each.
    """
    deadline = time.monotonic() + seconds
    own = Member(socket.gethostname(), os.getpid())
    meet_others = _report if launch.process_index else _receive
    return [Member(*member) for member in meet_others(launch, own, deadline, seconds)]


def open_relay(address: str, lost: threading.Event) -> int:
    """A port here that leads to `address`; when the far end is gone it stays open, and `lost` is set."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_relay, args=(listener, address, lost), name="relay", daemon=True).start()
    return listener.getsockname()[1]


def _receive(launch: Launch, own: Member, deadline: float, seconds: float) -> list[Member]:
    """Process 0: wait for the others' greetings, then answer all at once."""
    arrived: dict[int, socket.socket] = {}
    members = {0: own}
    problem = None
    with _listen(launch, deadline) as listener:
        listener.settimeout(_RETRY_SECONDS)
        while problem is None and len(arrived) < launch.num_processes - 1:
            for index in [index for index, connection in arrived.items() if _is_over(connection)]:
                arrived.pop(index).close()
                deadline = min(deadline, time.monotonic() + _RESTART_SECONDS)
            if time.monotonic() > deadline:
                problem = _missing(launch, arrived, seconds)
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                greeting = _read(connection, 5.0)
                if greeting is None or greeting[0] != _GREETING:
                    connection.close()
                    continue
                index, number, *member = greeting[1:]
                problem = _contradiction(launch, arrived, index, number)
                if problem:
                    _answer(connection, problem, [])
                    break
                arrived[index], members[index] = connection, Member(*member)
        listed = [members[index] for index in sorted(members)]
        for connection in arrived.values():
            _answer(connection, problem, listed)
    if problem:
        raise ConnectionError(problem)
    return listed


def _answer(connection: socket.socket, problem: str | None, members: list[Member]) -> None:
    with suppress(OSError), connection:
        connection.sendall(_line(_GREETING, problem, members))


def _report(launch: Launch, own: Member, deadline: float, seconds: float) -> list[Member]:
    """Another process: greet process 0 until it answers."""
    said: object = "it was not there"
    while time.monotonic() < deadline:
        answer = None
        try:
            with socket.create_connection(split_address(launch.coordinator), timeout=5) as connection:
                connection.sendall(_line(_GREETING, launch.process_index, launch.num_processes, *own))
                # Process 0 gives up by its own clock, which may have started later.
                answer = _read(connection, seconds + 10)
            said = "it ended"
            deadline = min(deadline, time.monotonic() + _RESTART_SECONDS)
        except TimeoutError:
            said = "no answer"
        except OSError as error:  # the name may be unknown, and the port closed, until process 0 has started
            said = error.strerror
        if answer is not None and answer[0] == _GREETING:
            if answer[1]:
                raise ConnectionError(answer[1])
            return answer[2]
        time.sleep(_RETRY_SECONDS)
    raise ConnectionError(
        f"process {launch.process_index} could not reach process 0 at {launch.coordinator} within "
        f"{seconds:.0f} s ({said}); check that process 0 runs there and that the port is open"
    )


def _listen(launch: Launch, deadline: float) -> socket.socket:
    port = split_address(launch.coordinator)[1]
    deadline = min(deadline, time.monotonic() + _RESTART_SECONDS)
    while True:
        try:
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            return socket.create_server(("", port))
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"process 0 cannot listen on port {port} of --coordinator {launch.coordinator} "
                    f"({error.strerror}); end what uses it, or choose another port"
                ) from error
            time.sleep(_RETRY_SECONDS)


def _missing(launch: Launch, arrived: dict[int, socket.socket], seconds: float) -> str:
    missing = [str(index) for index in range(1, launch.num_processes) if index not in arrived]
    listed = ", ".join(missing[:8]) + (" ..." if len(missing) > 8 else "")
    which = f"process {listed}" if len(missing) == 1 else f"processes {listed}"
    return (
        f"{which} of {launch.num_processes} ended or did not come to {launch.coordinator} within "
        f"{seconds:.0f} s; see their own output, and start all processes again"
    )


def _contradiction(launch: Launch, arrived: dict[int, socket.socket], index: int, number: int) -> str | None:
    if number != launch.num_processes:
        return (
            f"process {index} was started as one of {number} processes and process 0 as one of "
            f"{launch.num_processes}; give all the same number"
        )
    if index in arrived or not 0 < index < number:
        return f"two processes were started as process {index} of {number}; give each its own index"
    return None


def _line(*values: object) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _read(connection: socket.socket, seconds: float) -> list | None:
    """The list that the other end sent as a line, or None if it is no flaxmill."""
    connection.settimeout(seconds)
    try:
        with connection.makefile("rb") as lines:
            values = json.loads(lines.readline(_LONGEST_LINE))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, list) and values else None


def _is_over(connection: socket.socket) -> bool:
    """Whether the process at the other end, which has nothing to say, has ended."""
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(5)


def _relay(listener: socket.socket, address: str, lost: threading.Event) -> None:
    while True:
        near, _ = listener.accept()
        far = _connect(address)
        if far is None:
            lost.set()
            continue
        for part in (near, far):
            part.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        left = threading.Event()
        threading.Thread(target=_forward, args=(near, far, left), daemon=True).start()
        threading.Thread(target=_return, args=(far, near, left, lost), daemon=True).start()


def _connect(address: str) -> socket.socket | None:
    """JAX's service starts a moment after all have met."""
    deadline = time.monotonic() + _RESTART_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):
            connection = socket.create_connection(split_address(address), timeout=5)
            connection.settimeout(None)
            return connection
        time.sleep(0.02)
    return None


def _forward(near: socket.socket, far: socket.socket, left: threading.Event) -> None:
    _copy(near, far)
    left.set()
    with suppress(OSError):
        far.shutdown(socket.SHUT_RDWR)


def _return(far: socket.socket, near: socket.socket, left: threading.Event, lost: threading.Event) -> None:
    # When the far end is gone the near one stays open: to JAX that is a slow answer, not an error.
    _copy(far, near)
    if not left.is_set():
        lost.set()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
