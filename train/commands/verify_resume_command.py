"""`flaxmill verify-resume`: proves on the user's own config that a killed run continues exactly."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from flaxmill.data.files.local_paths import local_path
from flaxmill.sharding.processes.launch import find_launch
from flaxmill.train.failures import RunError
from flaxmill.train.run.directory import RUNS
from flaxmill.train.verify_resume.trial import read_arguments


def run(arguments: list[str]) -> int:
    """Run, compare, print; 0 if resume is proved, 1 if something differs.

    Raises:
      ValueError: the user's mistake.
      RunError: a run failed, or was over before it could be killed: nothing was shown.
    """
    asked = read_arguments(arguments)
    parsed = asked.parsed
    if launch := find_launch(os.environ):
        raise ValueError(
            f"verify-resume starts processes of its own, and {launch.source} says that this is one of "
            f"{launch.num_processes}; run it once, outside the job"
        )
    from flaxmill.train.verify_resume.proof import prove
    from flaxmill.train.verify_resume.report import print_json, print_table

    directory = _make_directory(parsed.config.run_dir, parsed.config.name)
    keep = parsed.keep
    try:
        proof = prove(arguments, asked, directory, _say)
        keep = keep or not proof.proved
        where = f"; the runs are kept in {directory}" if keep else ""
        if parsed.json:
            print_json(proof.described, proof.sections, proof.conclusion + where)
        else:
            print_table(proof.title, proof.sections, proof.conclusion + where)
    except RunError as error:
        keep = True
        reason = f"not proved: {error}; the runs are kept in {directory}"
        if parsed.json:
            print_json({"config": parsed.config.name}, [], reason)
        raise RunError(reason) from None
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if proof.proved else 1


def _make_directory(run_dir: str | None, name: str) -> Path:
    """Make a fresh directory next to the runs, on the disk that has to be trusted with the checkpoints."""
    parent = local_path(run_dir, "run_dir").absolute().parent if run_dir else RUNS.absolute()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"verify-resume-{name}-", dir=parent))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"{parent} cannot be written ({reason}); give another --run-dir") from None


def _say(line: str) -> None:
    """Progress goes to stderr: stdout holds the verdict alone."""
    print(line, file=sys.stderr, flush=True)
