"""Processes meet, or all are told why not; strangers at the port do not change that."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from launching import free_port
from strangers import dribble, listens, visit

from flaxmill.sharding.processes import rendezvous
from flaxmill.sharding.processes.door import MAX_UNKNOWN, OPENING_SECONDS
from flaxmill.sharding.processes.greetings import GreetedJob, Member
from flaxmill.sharding.processes.launch import Launch
from flaxmill.sharding.processes.rendezvous import Guest, Host, MeetingStoppedError

pytestmark = pytest.mark.slow  # it starts many processes, or waits for them

HOST = socket.gethostname()


class Meeting:
    """Processes of this test, each in a thread; process 0 closes its port at the end."""

    def __init__(self, job: str = "a job", token: str = "") -> None:
        self.address = f"localhost:{free_port()}"
        self.port = int(self.address.partition(":")[2])
        self.job, self.token = job, token
        self.said: list[str] = []
        self.hosts: list[Host] = []

    def join(self, index: int, number: int, seconds: float = 60, **other: str) -> Any:
        """Join as process `index` of `number`; returns the members, or the error."""
        launch = Launch(self.address, number, index, 0, 1, "flags")
        job = GreetedJob(other.get("job", self.job), number, other.get("token", self.token))
        own = Member(HOST, os.getpid())
        try:
            if index:
                return Guest(launch, job, own).meet(seconds)
            host = Host(launch, job, own, self.said.append)
            self.hosts.append(host)
            return host.meet(seconds)
        except ConnectionError as error:
            return error

    def __enter__(self) -> "Meeting":
        self.pool = ThreadPoolExecutor(16)
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.shutdown()
        for host in self.hosts:
            host.close()


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def meet(meeting: Meeting, starts: list[tuple[int, int]], seconds: float = 60) -> list[Any]:
    """Start processes as (index, number); returns what each found, or its error."""
    return list(meeting.pool.map(lambda start: meeting.join(start[0], start[1], seconds), starts))


def test_processes_that_meet_know_each_other():
    with Meeting() as meeting:
        assert meet(meeting, [(2, 3), (0, 3), (1, 3)]) == [[(HOST, os.getpid())] * 3] * 3
        assert meeting.said == []


def test_processes_that_do_not_come_are_named_to_all_that_did():
    with Meeting() as meeting:
        said = (
            f"processes 1, 3 of 4 ended or did not come to {meeting.address} within 2 s; see their own output"
        )
        assert [str(end).startswith(said) for end in meet(meeting, [(0, 4), (2, 4)], 2)] == [True] * 2


def test_an_unreachable_coordinator_is_named():
    with Meeting() as meeting:
        start = f"process 1 could not reach process 0 at {meeting.address} within 1 s (Connection refused)"
        assert str(meeting.join(1, 2, seconds=1)).startswith(start)
        meeting.address = "no-such-host.invalid:1"
        start = "process 1 could not reach process 0 at no-such-host.invalid:1 within 1 s ("
        assert str(meeting.join(1, 2, seconds=1)).startswith(start)


def test_two_processes_of_one_index_are_told_and_so_are_all():
    with Meeting() as meeting:
        for problem in meet(meeting, [(0, 3), (1, 3), (1, 3)]):
            assert str(problem).startswith("two processes were started as process 1 of 3; give each its own")


@pytest.mark.parametrize(
    ("number", "other", "told"),
    [
        (2, {}, "is of another job: 'a job, 2 processes'"),
        (3, {"job": "another"}, "is of another job: 'another, 3 processes'"),
        (3, {"token": "guessed"}, "has another FLAXMILL_JOB_TOKEN"),
        (3, {"token": ""}, "has another FLAXMILL_JOB_TOKEN"),
    ],
)
def test_a_process_of_another_job_is_told_apart_and_ends_nobody(number, other, told, monkeypatch):
    monkeypatch.setattr(rendezvous, "RESTART_SECONDS", 1.0)
    with Meeting(token="secret") as meeting:
        job = [meeting.pool.submit(meeting.join, index, 3) for index in (0, 1)]
        stranger = meeting.join(2, number, **other)
        here = f"{other.get('job', 'a job')}, {number} processes"
        assert f"(there is a job, 3 processes, here is {here}); check that process 0 of this job" in str(
            stranger
        )
        job.append(meeting.pool.submit(meeting.join, 2, 3))
        assert [process.result() for process in job] == [[(HOST, os.getpid())] * 3] * 3
        (line,) = meeting.said
        assert line.startswith(f"whoever connected to port {meeting.port} from ")
        assert line.endswith(f" {told}; it is ignored")


def test_a_process_that_comes_after_the_meeting_is_told_at_once():
    with Meeting() as meeting:
        meet(meeting, [(0, 2), (1, 2)])
        assert str(meeting.join(1, 2)).startswith(
            "the job has begun and cannot be joined; start all processes"
        )


def test_a_process_that_was_started_again_is_met(monkeypatch):
    monkeypatch.setattr(rendezvous, "RESTART_SECONDS", 5.0)
    with Meeting() as meeting:
        host = meeting.pool.submit(meeting.join, 0, 3)
        job = GreetedJob("a job", 3)
        until(lambda: listens(meeting.port))
        with socket.create_connection(("127.0.0.1", meeting.port)) as first:
            first.sendall(job.greet("member", 1, Member("elsewhere", 1)))
            until(lambda: meeting.hosts[0]._arrived.keys() == {1})
        again = meeting.pool.submit(meeting.join, 1, 3)
        assert meeting.join(2, 3) == again.result() == host.result() == [(HOST, os.getpid())] * 3


@pytest.fixture
def exits(monkeypatch):
    """Makes `leave` raise instead of ending this process; the exit codes that it was given."""
    codes = []

    def note(code: int) -> None:
        codes.append(code)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", note)
    return codes


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_is_told_to_stop_takes_those_with_it_that_have_come(index, exits):
    with Meeting() as meeting:
        own, job = Member(HOST, os.getpid()), GreetedJob("a job", 4)
        launches = [Launch(meeting.address, 4, index, 0, 1, "flags") for index in range(3)]
        host = Host(launches[0], job, own, meeting.said.append)
        meeting.hosts.append(host)
        processes = [host, *(Guest(launch, job, own) for launch in launches[1:])]
        ends = [meeting.pool.submit(process.meet, 60) for process in processes]
        until(lambda: host._arrived.keys() == {1, 2})
        with pytest.raises(SystemExit):
            processes[index].leave(143, "SIGTERM: stopping")
        assert exits == [143]
        for other in {1 - index, 2}:
            with pytest.raises(MeetingStoppedError) as caught:
                ends[other].result(10)
            assert str(caught.value) == f"process {index} ({HOST}): SIGTERM: stopping"
            assert caught.value.code == 143
        with host._changed:  # in a real job its process would have ended
            host._decide(rendezvous.MeetingVerdict("refused", "over"))
        assert isinstance(ends[index].exception(10), ConnectionError)


def test_strangers_end_nobody_and_are_said_once_of_each_kind():
    with Meeting() as meeting:
        host = meeting.pool.submit(meeting.join, 0, 3)
        until(lambda: listens(meeting.port))
        visit(meeting.port, 400)
        first = meeting.pool.submit(meeting.join, 1, 3)
        visit(meeting.port, 400, seed=1)
        assert meeting.join(2, 3) == first.result() == host.result() == [(HOST, os.getpid())] * 3
        kinds = {line.split(" from ")[1].partition(" ")[2] for line in meeting.said}
        assert len(meeting.said) == len(kinds) <= 4
        assert "is not a process of flaxmill; it is ignored" in kinds


@pytest.mark.slow
def test_half_open_connections_keep_nobody_out_and_are_closed_in_time():
    with Meeting() as meeting:
        host = meeting.pool.submit(meeting.join, 0, 2)
        until(lambda: listens(meeting.port))
        idle = [socket.create_connection(("127.0.0.1", meeting.port)) for _ in range(3 * MAX_UNKNOWN)]
        started = time.monotonic()
        assert meeting.join(1, 2) == host.result() == [(HOST, os.getpid())] * 2
        assert time.monotonic() - started < 5
        for connection in idle:
            connection.settimeout(2 * OPENING_SECONDS)
            with connection, suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert time.monotonic() - started < 3 * OPENING_SECONDS


@pytest.mark.slow
def test_a_line_that_never_ends_is_cut_off_in_time():
    with Meeting() as meeting:
        meeting.pool.submit(meeting.join, 0, 2, 7)
        until(lambda: listens(meeting.port))
        assert dribble(meeting.port, 60) < OPENING_SECONDS + 3


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        GreetedJob("a job", 2, "guessed").answer("met", [["h", 1]] * 2),
        b"[" * 100_000,
    ],
)
def test_a_server_that_is_no_process_0_is_not_believed(line, monkeypatch):
    monkeypatch.setattr(rendezvous, "RESTART_SECONDS", 1.0)
    with Meeting() as meeting, socket.create_server(("127.0.0.1", meeting.port)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(line)

        meeting.pool.submit(serve)
        end = meeting.join(1, 2, 2)
        server.shutdown(socket.SHUT_RDWR)
        assert "could not reach process 0" in str(end)
