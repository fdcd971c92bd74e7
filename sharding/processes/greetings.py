"""What the processes of one job say to each other before JAX connects them: lines of JSON, checked whole.

A line names its job, so that lines of other jobs are told apart. Where all processes have a secret in common
(FLAXMILL_JOB_TOKEN), a line proves with it that it comes from one of them; the secret itself is never sent.
"""

import hashlib
import hmac
import json
import os
from typing import Any, Literal, NamedTuple, get_args

TOKEN = "FLAXMILL_JOB_TOKEN"
MAX_LINE = 8192  # bytes of a greeting
_MAX_NAME = 1000  # characters, six bytes each where JSON escapes them
_MARK, _VERSION = "flaxmill", 2
_MAX_HOST = 255

Kind = Literal["member", "relay"]


class Member(NamedTuple):
    """A process of the job: its machine's name and its number there."""

    host: str
    pid: int


class Greeting(NamedTuple):
    """A process of this job says who it is, to be met (member) or to be led to JAX's service (relay)."""

    kind: Kind
    index: int
    member: Member


class Stranger(NamedTuple):
    """The sender of a line that is not a greeting of this job, and why it is not."""

    why: str
    is_flaxmill: bool = False


class GreetedJob:
    """The name that all processes of a job have in common, and the secret, "" where there is none."""

    def __init__(self, name: str, num_processes: int, token: str = "") -> None:
        if len(name) > _MAX_NAME:
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
            name = f"{name[:300]}... ({digest})"
        self.name = f"{name}, {num_processes} processes"
        self._num_processes, self._token = num_processes, os.fsencode(token)

    def greet(self, kind: Kind, index: int, member: Member) -> bytes:
        """The line of a process of this job."""
        return _line(kind, self.name, self._proof(kind), index, *member)

    def answer(self, kind: str, value: Any) -> bytes:
        """The line of process 0."""
        return _line("answer", self._proof("answer"), kind, value)

    def read_greeting(self, line: bytes) -> Greeting | Stranger:
        """What a line says; it may be anything."""
        values = _read(line)
        if values is None:
            return Stranger("is not a process of flaxmill")
        if (
            len(values) != 6
            or not _are(values, str, str, str, int, str, int)
            or values[0] not in get_args(Kind)
        ):
            return Stranger("is not a process of this version of flaxmill")
        kind, name, proof, index, host, pid = values
        if name != self.name:
            return Stranger(f"is of another job: {name[:300]!a}", is_flaxmill=True)
        if not _are_same(proof, self._proof(kind)):
            return Stranger(f"has another {TOKEN}", is_flaxmill=True)
        is_host = host.isascii() and host.isprintable() and len(host) <= _MAX_HOST
        if not 0 <= index < self._num_processes or not is_host:
            return Stranger("is not a process of this job")
        return Greeting(kind, index, Member(host, pid))

    def read_answer(self, line: bytes) -> tuple[str, Any] | None:
        """What process 0 of this job says; None if the line is another's.

        Another job that is met there says so itself: its word for it needs no proof.
        """
        values = _read(line)
        if values is None or len(values) != 4 or not _are(values[:3], str, str, str) or values[0] != "answer":
            return None
        _, proof, kind, value = values
        is_ours = _are_same(proof, self._proof("answer"))
        return (kind, value) if is_ours or kind == "stranger" else None

    def _proof(self, kind: str) -> str:
        return hmac.new(self._token, f"{kind}\n{self.name}".encode(), hashlib.sha256).hexdigest()


def _are_same(proof: str, ours: str) -> bool:
    """Compares in a time that does not tell how much of the proof is right."""
    return hmac.compare_digest(proof.encode("utf-8", "surrogatepass"), ours.encode())


def leaving(code: int, said: str) -> bytes:
    """The line of a process that leaves after its greeting."""
    return _line("leaving", code, said[:1000])


def read_leaving(line: bytes) -> tuple[int, str] | None:
    """Exit code and reason of a process that leaves; None where it left without a word."""
    values = _read(line)
    if values is None or len(values) != 3 or not _are(values, str, int, str) or values[0] != "leaving":
        return None
    return values[1], values[2]


def _line(*values: Any) -> bytes:
    return json.dumps([_MARK, _VERSION, *values]).encode() + b"\n"


def _read(line: bytes) -> list[Any] | None:
    """The values behind the mark, or None where there is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or values[:1] != [_MARK]:
        return None
    return values[2:] if len(values) > 1 and values[1] == _VERSION else []


def _are(values: list[Any], *types: type) -> bool:
    """Whether the values have exactly these types: true is not a number."""
    return all(type(value) is kind for value, kind in zip(values, types, strict=True))
