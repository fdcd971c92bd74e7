"""How processes meet before JAX connects them.

JAX's client aborts its process with a stack trace, from a thread of its own, when a process never comes; this
lets Python say which process it was instead. Process 0 keeps the port open as long as the job lasts, and lets
the others through it to JAX's service (sharding/processes/relay.py), which nobody else can reach.
"""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from flaxmill.sharding.processes.door import Door, Reader, Writer
from flaxmill.sharding.processes.greetings import (
    MAX_LINE,
    GreetedJob,
    Greeting,
    Member,
    Stranger,
    leaving,
    read_leaving,
)
from flaxmill.sharding.processes.launch import Launch, bind_address, split_address
from flaxmill.sharding.processes.relay import lead_to

RESTART_SECONDS = 20.0  # how long a process that ended may take to give its port back and to come again
_RETRY_SECONDS = 0.2
_TELL_SECONDS = 3.0

Say = Callable[[str], None]


class MeetingStoppedError(ConnectionError):
    """A process was told to stop before all had met; the others end with it, with the same exit code."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code = code


class MeetingVerdict(NamedTuple):
    """What process 0 tells all that have come: that they have met (members), or why they do not."""

    kind: str
    """met, refused or stopped"""
    value: Any


class Host:
    """Process 0: waits for the others, then answers all at once.

    A connection without a greeting of this job is let go; each kind is reported once.
    """

    def __init__(self, launch: Launch, job: GreetedJob, own: Member, say: Say) -> None:
        self._launch, self._job, self._own, self._say = launch, job, own, say
        self._changed = threading.Condition()
        self._arrived: dict[int, tuple[Member, Writer]] = {}
        self._verdict: MeetingVerdict | None = None
        self._has_lost_one = False
        self._told: set[str] = set()
        self._service: str | None = None
        self._num_led = 0
        self._door: Door | None = None

    def meet(self, seconds: float) -> list[Member]:
        """All processes by index, once all are here.

        Raises:
          ConnectionError: some did not come within `seconds`, or contradict each other, or the port is taken.
        """
        deadline = time.monotonic() + seconds
        listener = _listen(self._launch, deadline)
        self._door = Door(listener, lambda reader: reader.readline(), self._admit, limit=MAX_LINE)
        with self._changed:
            while self._verdict is None:
                if len(self._arrived) == self._launch.num_processes - 1:
                    members = {0: self._own} | {index: one for index, (one, _) in self._arrived.items()}
                    self._verdict = MeetingVerdict("met", [members[index] for index in sorted(members)])
                    break
                if self._has_lost_one:
                    deadline = min(deadline, time.monotonic() + RESTART_SECONDS)
                    self._has_lost_one = False
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    self._verdict = MeetingVerdict(
                        "refused", _missing(self._launch, set(self._arrived), seconds)
                    )
            verdict = self._verdict
        self._door.call(self._answer_all(verdict), _TELL_SECONDS)
        return _members_or_raise(verdict)

    def leave(self, code: int, said: str) -> None:
        """End this process, and tell the processes that have come why; once all have met it returns.

        Call it from another thread than `meet`.
        """
        with self._changed:
            self._decide(MeetingVerdict("stopped", [code, f"process 0 ({self._own.host}): {said}"]))
            verdict = self._verdict
        assert verdict is not None
        if verdict.kind == "met":
            return
        if self._door is not None:
            self._door.call(self._answer_all(verdict), _TELL_SECONDS)
        os._exit(code)

    def serve(self, path: str) -> None:
        """Lead the others' relays to JAX's service, which listens on this UNIX socket."""
        self._service = path

    def close(self) -> None:
        """Give the port back."""
        if self._door is not None:
            self._door.close()

    async def _admit(self, line: bytes, reader: Reader, writer: Writer) -> None:
        greeting = self._job.read_greeting(line)
        if isinstance(greeting, Stranger):
            self._ignore(greeting, writer)
            if greeting.is_flaxmill:
                await self._tell(writer, MeetingVerdict("stranger", f"there is {self._job.name}"))
        elif greeting.kind == "relay":
            await self._lead(reader, writer)
        elif self._verdict is not None:
            text = "the job has begun and cannot be joined; start all processes again"
            has_begun = self._verdict.kind == "met"
            await self._tell(writer, MeetingVerdict("refused", text) if has_begun else self._verdict)
        else:
            await self._keep(greeting, reader, writer)

    async def _lead(self, reader: Reader, writer: Writer) -> None:
        """Lead to JAX's service. Each process has one connection to it, or a few if one is made again."""
        if self._num_led < 4 * self._launch.num_processes:
            self._num_led += 1
            try:
                await lead_to(lambda: self._service, reader, writer)
            finally:
                self._num_led -= 1

    async def _keep(self, greeting: Greeting, reader: Reader, writer: Writer) -> None:
        """Hold the connection until it is answered, or its process ends."""
        index = greeting.index
        with self._changed:
            if index in self._arrived or index == 0:
                number = self._launch.num_processes
                text = f"two processes were started as process {index} of {number}; give each its own index"
                self._decide(MeetingVerdict("refused", text))
            else:
                self._arrived[index] = greeting.member, writer
                self._changed.notify_all()
        if self._arrived.get(index) != (greeting.member, writer):
            await self._tell(writer, self._verdict)
            return
        with suppress(OSError):
            writer.write(self._job.answer("wait", None))
        line = b""
        with suppress(OSError, ValueError):
            line = await reader.readline()
        with self._changed:
            if self._verdict is None:
                del self._arrived[index]
                self._has_lost_one = True
                if left := read_leaving(line):
                    code, said = left
                    text = f"process {index} ({greeting.member.host}): {said}"
                    self._decide(MeetingVerdict("stopped", [code, text]))
                self._changed.notify_all()

    def _decide(self, verdict: MeetingVerdict) -> None:
        self._verdict = self._verdict or verdict
        self._changed.notify_all()

    async def _answer_all(self, verdict: MeetingVerdict) -> None:
        await asyncio.gather(*(self._tell(writer, verdict) for _, writer in self._arrived.values()))

    async def _tell(self, writer: Writer, verdict: MeetingVerdict | None) -> None:
        if verdict is not None:
            with suppress(OSError, RuntimeError):  # it has gone, or was told already
                writer.write(self._job.answer(*verdict))
                await writer.drain()
                writer.write_eof()

    def _ignore(self, stranger: Stranger, writer: Writer) -> None:
        if stranger.why not in self._told and len(self._told) < 8:
            self._told.add(stranger.why)
            port = split_address(self._launch.coordinator)[1]
            address = writer.get_extra_info("peername") or ("somewhere",)
            self._say(f"whoever connected to port {port} from {address[0]} {stranger.why}; it is ignored")


class Guest:
    """Another process: greets process 0 until it answers."""

    def __init__(self, launch: Launch, job: GreetedJob, own: Member) -> None:
        self._launch, self._job, self._own = launch, job, own
        self._connection: socket.socket | None = None
        self._has_waited = self._has_met = False

    def meet(self, seconds: float) -> list[Member]:
        """All processes by index, once all are here.

        Raises:
          ConnectionError: process 0 was not reached within `seconds`, or says why they do not meet.
        """
        deadline, said = time.monotonic() + seconds, "it was not there"
        while time.monotonic() < deadline:
            answer = None
            try:
                # Process 0 gives up by its own clock, which may have started later.
                answer = self._greet(deadline + 10)
                said = "it ended"
                if self._has_waited:
                    deadline = min(deadline, time.monotonic() + RESTART_SECONDS)
            except TimeoutError:
                said = "no answer"
            except OSError as error:
                # The name may be unknown, and the port closed, until process 0 has started.
                said = error.strerror or str(error)
            if answer is not None and answer[0] == "stranger":
                said = f"{answer[1]}, here is {self._job.name}"
                deadline = min(deadline, time.monotonic() + RESTART_SECONDS)
            elif answer is not None:
                self._has_met = answer[0] == "met"
                return _members_or_raise(MeetingVerdict(*answer))
            time.sleep(_RETRY_SECONDS)
        raise ConnectionError(
            f"process {self._launch.process_index} could not reach process 0 at {self._launch.coordinator} "
            f"within {seconds:.0f} s ({said}); check that process 0 of this job runs there and that the port "
            "is open"
        )

    def leave(self, code: int, said: str) -> None:
        """End this process, and tell process 0 why; it returns as in `Host`."""
        if self._has_met:
            return
        with suppress(OSError):
            if self._connection is not None:
                self._connection.sendall(leaving(code, said))
        os._exit(code)

    def _greet(self, deadline: float) -> tuple[str, Any] | None:
        """What process 0 or a stranger in its place answers; None if it ends before that."""
        address = split_address(self._launch.coordinator)
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(self._job.greet("member", self._launch.process_index, self._own))
            self._connection = connection
            try:
                for line in _read_lines(connection, deadline, MAX_LINE + 512 * self._launch.num_processes):
                    answer = self._job.read_answer(line) or ("stranger", "what answers is not process 0")
                    if answer[0] != "wait":
                        return answer
                    self._has_waited = True
            finally:
                self._connection = None
        return None


def _members_or_raise(verdict: MeetingVerdict) -> list[Member]:
    if verdict.kind == "met":
        return [Member(*member) for member in verdict.value]
    if verdict.kind == "stopped":
        raise MeetingStoppedError(*verdict.value)
    raise ConnectionError(verdict.value)


def _read_lines(connection: socket.socket, deadline: float, limit: int) -> Iterator[bytes]:
    """The lines that come until the end, or until one has `limit` bytes; TimeoutError at the deadline."""
    received = bytearray()
    while len(received) < limit:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        data = connection.recv(1 << 16)
        if not data:
            return
        received += data
        while b"\n" in received:
            line, _, received = received.partition(b"\n")
            yield bytes(line)


def _listen(launch: Launch, deadline: float) -> socket.socket:
    """Listen on the port of --coordinator, at all addresses unless JAX_COORDINATOR_BIND_ADDRESS names one."""
    host, port = bind_address(os.environ, launch)
    deadline = min(deadline, time.monotonic() + RESTART_SECONDS)
    while True:
        try:
            if not host and socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"process 0 cannot listen on port {port} of --coordinator {launch.coordinator} "
                    f"({error.strerror}); end what uses it, or choose another port"
                ) from error
            time.sleep(_RETRY_SECONDS)


def _missing(launch: Launch, arrived: set[int], seconds: float) -> str:
    missing = [str(index) for index in range(1, launch.num_processes) if index not in arrived]
    listed = ", ".join(missing[:8]) + (" ..." if len(missing) > 8 else "")
    which = f"process {listed}" if len(missing) == 1 else f"processes {listed}"
    return (
        f"{which} of {launch.num_processes} ended or did not come to {launch.coordinator} within "
        f"{seconds:.0f} s; see their own output, and start all processes again"
    )
