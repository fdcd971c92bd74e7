"""Runs a target's inputs, here or through the command itself, and keeps the first of each finding."""

import contextlib
import faulthandler
import importlib
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import hypothesis
from fuzz_cases import Case, Target, make_cases, place
from fuzz_outcomes import LEAKS, SECONDS, Finding, attempt, check_line

from flaxmill.train import command_line

COMMAND_SECONDS = 60.0
"""For a whole command, which compiles programs too."""
_LIBRARY_SECONDS = 6 * SECONDS  # after these, a library that no signal interrupts takes the process with it
Read = Callable[[Case], None]

_TEXT = "the quick brown fox jumps over a lazy dog\n\nwho knows? not I\n"


def make_places(root: Path) -> Path:
    """Make the directory in which cases are laid out, and files outside it that must not be read."""
    (root / "outside").mkdir(parents=True)
    (root / "outside/secret").write_text("secret\n")
    (root / "text.txt").write_text(_TEXT * 4)
    (inside := root / "inside").mkdir()
    return inside


def import_all() -> None:
    """Import every command, so that children of this process need not."""
    for command in command_line.COMMANDS:
        if command not in ("train", "completion"):  # the loop brings the one, and nothing runs the other
            importlib.import_module(f"flaxmill.train.commands.{command.replace('-', '_')}_command")
    for name in ("loop", "parity.small_models"):
        importlib.import_module(f"flaxmill.train.{name}")


class Keeper:
    """The findings of a target: the first input of each kind, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kinds: dict[str, str] = {}

    def keep(self, finding: Finding, inside: Path, case: Case) -> None:
        """Copy the case and note what came of it, unless a finding of its kind is kept already."""
        if finding.kind in self.kinds:
            return
        self.kinds[finding.kind] = str(finding)
        target = self.directory / f"finding{len(self.kinds)}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name, data in case.changed.items():
            (target / Path(name).name).write_bytes(data)
        what = {"base": str(case.base), "changed": list(case.changed), "moved": case.moved}
        told = json.dumps(what | {"variant": case.variant})
        (target / "finding.txt").write_text(f"{told}\n{finding}\n", encoding="utf-8", errors="replace")
        if not case.moved:
            shutil.copytree(inside, target / "inside", symlinks=True, ignore=_unreadable)


def _unreadable(directory: str, names: list[str]) -> list[str]:
    """Names that are not copied: neither files nor folders, such as pipes."""
    paths = {name: Path(directory, name) for name in names}
    return [name for name, path in paths.items() if not path.is_file() and not path.is_dir()]


def _run_cases(
    target: Target, bases: Sequence[Path], inside: Path, number: int, seed: int, keeper: Keeper, read: Read
) -> int:
    """Draw `number` cases, lay each out `inside` and read it; returns how many there were."""
    tried = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=[*hypothesis.HealthCheck],  # pyright: ignore[reportArgumentType]
    )
    @hypothesis.given(make_cases(target, bases))
    def run(case: Case) -> None:
        nonlocal tried
        tried += 1
        place(case, inside)
        _note(inside, case, tried)
        try:
            read(case)
        except Finding as finding:
            keeper.keep(finding, inside, case)

    run()
    return tried


def _note(inside: Path, case: Case, tried: int) -> None:
    """Note what is read now, for whoever finds the process dead."""
    (inside.parent / "now.json").write_text(json.dumps([tried, str(case.base), case.variant, case.moved]))


def read_inputs(
    target: Target, bases: Sequence[Path], inside: Path, *, number: int, seed: int, keeper: Keeper
) -> int:
    """Read inputs with the functions behind the commands."""

    def read(case: Case) -> None:
        faulthandler.dump_traceback_later(_LIBRARY_SECONDS, exit=True)
        try:
            attempt(lambda path: target.read(path, case.variant), inside)
        finally:
            faulthandler.cancel_dump_traceback_later()

    return _run_cases(target, bases, inside, number, seed, keeper, read)


def run_commands(
    target: Target, bases: Sequence[Path], inside: Path, *, number: int, seed: int, keeper: Keeper
) -> int:
    """Give inputs to the command line, each in a child of this process, in which no program may run yet."""

    def read(case: Case) -> None:
        command = target.commands[case.variant % len(target.commands)].format(inside=inside)
        cache = inside / "cache"  # if the case has a cache, that is what is to be read
        os.environ["FLAXMILL_CACHE"] = str(cache if cache.exists() else inside.parent / "cache")
        _command(shlex.split(command)[1:])

    return _run_cases(target, bases, inside, number, seed, keeper, read)


def _command(argv: list[str]) -> None:
    """Run a command; raises Finding if it ends with anything but 0, or 2 and one line."""
    with tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as out:
        code = _wait(_fork(argv, out.fileno(), err.fileno()))
        err.seek(0)
        said = err.read().decode("utf-8", "replace")
    if code is None:
        raise Finding("command: hang", f"{argv}\n{said[-2000:]}")
    if leaks := [leak for leak in LEAKS if leak in said]:
        # The place where it was raised tells findings apart.
        places = [line.strip() for line in said.splitlines() if line.startswith("  File ")]
        place_ = places[-1] if places else ""
        raise Finding(
            f"command: {leaks[0]} {place_} {said.strip().splitlines()[-1][:40]}", f"{argv}\n{said[-4000:]}"
        )
    if code == 0:
        return
    errors = [line for line in said.splitlines() if line.startswith("flaxmill: error: ")]
    if code == command_line.EXIT_FAILURE and _is_damage(argv[0], errors):
        return
    others = [line for line in said.splitlines() if not line.startswith(("flaxmill: ", "warning: "))]
    if code != command_line.EXIT_MISTAKE or len(errors) != 1 or others:
        raise Finding(f"command: exit code {code}, {len(errors)} lines and others", f"{argv}\n{said[-4000:]}")
    check_line(errors[0])


def _is_damage(command: str, errors: list[str]) -> bool:
    """Whether a checkpoint or a dataset is damaged: that is not the user's mistake, and has exit code 1."""
    if command == "checkpoints":  # it lists damaged checkpoints
        return not errors
    return len(errors) == 1 and any(word in errors[0] for word in ("checkpoint", "is damaged", "is gone"))


def _fork(argv: list[str], out: int, err: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    if (child := os.fork()) == 0:
        _become(argv, out, err)
    return child


def _become(argv: list[str], out: int, err: int) -> NoReturn:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    code = 70
    try:
        command_line.main(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> int | None:
    """The child's exit code, negative for a signal; None if it had to be killed."""
    until = time.monotonic() + COMMAND_SECONDS
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.005)
