"""Processes of a job greet each other by lines; any other line is told apart, whatever it is."""

import json

import pytest

from flaxmill.sharding.processes.greetings import (
    TOKEN,
    GreetedJob,
    Greeting,
    Member,
    Stranger,
    leaving,
    read_leaving,
)

MEMBER = Member("node1", 7)
JOB = GreetedJob("gpt_tiny in /runs/a", 4, "secret")


def changed(**values: object) -> bytes:
    """A greeting with other values at these places."""
    line = json.loads(JOB.greet("member", 2, MEMBER))
    for name, value in values.items():
        line[("mark", "version", "kind", "job", "proof", "index", "host", "pid").index(name)] = value
    return json.dumps(line).encode() + b"\n"


def test_a_greeting_is_read_as_it_was_meant():
    assert JOB.read_greeting(JOB.greet("member", 2, MEMBER)) == Greeting("member", 2, MEMBER)
    assert JOB.read_greeting(JOB.greet("relay", 3, MEMBER)) == Greeting("relay", 3, MEMBER)
    assert JOB.read_answer(JOB.answer("met", [MEMBER])) == ("met", [list(MEMBER)])
    assert read_leaving(leaving(143, "SIGTERM: stopping")) == (143, "SIGTERM: stopping")


NO_FLAXMILL = [
    *(
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\xff\xfe\n",
        b"null\n",
        b"{}\n",
        b"[]\n",
    ),
    *(b"7\n", b'"flaxmill"\n', b'["other", 2]\n', b"[" * 8000, b"[" + b"9" * 8000 + b"]", b"NaN\n"),
]


@pytest.mark.parametrize("line", NO_FLAXMILL)
def test_what_is_no_line_of_flaxmill_is_a_strangers(line):
    assert JOB.read_greeting(line) == Stranger("is not a process of flaxmill")
    assert JOB.read_answer(line) is None
    assert read_leaving(line) is None


MALFORMED = [
    *(b'["flaxmill"]\n', b'["flaxmill","x",2,"h",1]\n', b'["flaxmill",1,2,"h",1]\n', b'["flaxmill",2]\n'),
    *(changed(version=3), changed(version=True), changed(kind="guest"), changed(kind=[]), changed(job=None)),
    *(changed(proof=7), changed(index="2"), changed(index=True), changed(index=2.0), changed(index=4)),
    *(changed(index=-1), changed(index=10**400), changed(host=["h"]), changed(host="h\n"), changed(pid=None)),
    *(changed(host="h" * 256), changed(host="\ud800")),
]


@pytest.mark.parametrize("line", MALFORMED)
def test_a_greeting_that_is_not_whole_is_a_strangers(line):
    found = JOB.read_greeting(line)
    assert isinstance(found, Stranger)
    assert not found.is_flaxmill


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (
            GreetedJob("gpt_tiny in /runs/b", 4, "secret"),
            "is of another job: 'gpt_tiny in /runs/b, 4 processes'",
        ),
        (
            GreetedJob("gpt_tiny in /runs/a", 3, "secret"),
            "is of another job: 'gpt_tiny in /runs/a, 3 processes'",
        ),
        (GreetedJob("gpt_tiny in /runs/a", 4, "guessed"), f"has another {TOKEN}"),
        (GreetedJob("gpt_tiny in /runs/a", 4), f"has another {TOKEN}"),
    ],
)
def test_the_greeting_of_another_job_is_told_apart(other, why):
    assert JOB.read_greeting(other.greet("member", 1, MEMBER)) == Stranger(why, is_flaxmill=True)
    assert JOB.read_answer(other.answer("met", [MEMBER])) is None
    # The one answer that is accepted from another job is that this process is a stranger there.
    assert JOB.read_answer(other.answer("stranger", "there is b")) == ("stranger", "there is b")


def test_a_proof_is_of_its_kind_and_job_and_tells_no_secret():
    member, relay = (json.loads(JOB.greet(kind, 1, MEMBER)) for kind in ("member", "relay"))
    assert member[4] != relay[4]
    assert isinstance(JOB.read_greeting(json.dumps([*member[:2], "relay", *member[3:]]).encode()), Stranger)
    assert "secret" not in JOB.greet("member", 1, MEMBER).decode()
    assert JOB.read_greeting(changed(proof="\ud800")) == Stranger(f"has another {TOKEN}", is_flaxmill=True)


@pytest.mark.parametrize("length", [1000, 100_000])
def test_a_name_of_any_length_fits_in_a_greeting(length):
    job = GreetedJob("漢" * length, 10**6, "secret")
    line = job.greet("member", 999_999, Member("h" * 255, 4_194_304))
    assert len(line) < 8192
    assert isinstance(job.read_greeting(line), Greeting)
    assert isinstance(GreetedJob("漢" * length + "b", 10**6, "secret").read_greeting(line), Stranger)


def test_another_jobs_name_is_told_without_what_a_terminal_would_obey():
    stranger = JOB.read_greeting(GreetedJob("\x1b[2J\n" + "y" * 5000, 4, "secret").greet("member", 1, MEMBER))
    assert isinstance(stranger, Stranger)
    assert stranger.why.isprintable()
    assert len(stranger.why) < 400
