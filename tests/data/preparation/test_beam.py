"""A corpus prepared on Apache Beam is the one that local workers prepare; `make beam` runs this with Beam."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not HAS_BEAM, reason="Beam has an environment of its own: make beam")
LOCAL_RUNNER = ("--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture
def files(tmp_path) -> tuple[str, ...]:
    for number in range(4):
        sentences = [f"Sentence {number * row} of text {number} stands in row {row}." for row in range(300)]
        text = "\n".join(sentence + "\n" * (row % 7 == 0) for row, sentence in enumerate(sentences))
        (tmp_path / f"{number}.txt").write_text(text)
    return tuple(str(tmp_path / f"{number}.txt") for number in range(4))


def prepare_in_process(files: tuple[str, ...], cache: Path, objective: str, means: str) -> dict[str, str]:
    """The hash of every file of the dataset; each of the files is a group of its own."""
    code = (
        "from pathlib import Path\n"
        "from flaxmill.data.config import DataConfig\n"
        "from flaxmill.data.preparation import groups\n"
        "from flaxmill.data.preparation.cache import prepare\n"
        "from flaxmill.data.preparation.means import Means\n"
        "groups.GROUP_BYTES = 1000\n"
        f"config = DataConfig(files={files!r}, documents='blank_lines', tokenizer='wordpiece',\n"
        "    vocab_size=300, sequence_length=32, pair_copies=2)\n"
        f"print(prepare(config, {objective!r}, cache=Path({str(cache)!r}), means={means},\n"
        "    log=lambda line: None).directory)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert list((cache / "data").glob(".*.partial")) == []
    directory = Path(run.stdout.splitlines()[-1])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def run_flaxmill(cache: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [Path(sys.executable).with_name("flaxmill"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"FLAXMILL_CACHE": str(cache)},
    )


@needs_beam
@pytest.mark.parametrize("objective", ["causal", "mlm_nsp"])
def test_two_workers_of_beam_make_the_bytes_of_one_process(tmp_path, files, objective):
    local = prepare_in_process(files, tmp_path / "local", objective, "Means(1)")
    on_beam = prepare_in_process(files, tmp_path / "beam", objective, f"Means(None, {LOCAL_RUNNER})")
    assert on_beam == local


@needs_beam
def test_the_command_passes_flags_on_and_prints_the_dataset(tmp_path, files):
    data = ("--data.files", str(Path(files[0]).parent / "*.txt"), "--data.tokenizer", "bytes")
    run = run_flaxmill(
        tmp_path / "cache", "data", "prepare", "gpt_tiny", *data, "--beam", "--", *LOCAL_RUNNER
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "fingerprint" in run.stdout


@needs_beam
def test_a_bad_row_in_a_worker_is_one_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [json.dumps({"text": f"A text of row {number}."}) for number in range(200)]
    path.write_text("\n".join([*rows, "{broken"]) + "\n")
    data = ("--data.files", str(path), "--data.tokenizer", "bytes")
    run = run_flaxmill(
        tmp_path / "cache", "data", "prepare", "gpt_tiny", *data, "--beam", "--", *LOCAL_RUNNER
    )
    assert run.returncode == 2, run.stderr[-3000:]
    last = run.stderr.splitlines()[-1]
    assert last.startswith("flaxmill: error: ")
    assert "row 201 of" in last


@pytest.mark.skipif(HAS_BEAM, reason="Beam is installed here")
def test_without_beam_one_line_says_what_to_install(tmp_path, flaxmill):
    code, _, error = flaxmill("data", "prepare", "gpt_tiny", "--seed", "7", "--data.seed", "7", "--beam")
    assert code == 2
    assert "--beam needs Apache Beam; install it with `pip install 'flaxmill[beam]'`" in error


def test_flags_for_beam_need_beam(flaxmill):
    code, _, error = flaxmill("data", "prepare", "gpt_tiny", "--", "--runner=DirectRunner")
    assert code == 2
    assert "flags after --, such as --runner=DirectRunner, are for Apache Beam; give --beam as well" in error


@pytest.mark.parametrize(
    ("flags", "said"), [(("--workers", "2"), "workers=2"), (("--shard", "1/2"), "shard=1/2")]
)
def test_beam_divides_the_work_itself(flaxmill, flags, said):
    code, _, error = flaxmill("data", "prepare", "gpt_tiny", "--beam", *flags)
    assert code == 2
    assert f"beam and {said} are both set; Beam divides the work itself" in error


def test_labelled_examples_are_not_prepared_on_beam(flaxmill):
    code, _, error = flaxmill("data", "prepare", "classify", "--data.seed", "7", "--beam")
    assert code == 2
    assert "learns from labelled examples, which one process prepares; leave out --beam" in error


def test_a_source_of_this_process_is_not_for_beam(monkeypatch):
    from flaxmill.data.config import DataConfig
    from flaxmill.data.preparation import beam

    monkeypatch.setattr(beam, "_find_beam", lambda: None)
    with pytest.raises(
        ValueError, match="python:mine is defined in this process, and Beam's workers are others"
    ):
        beam.check_beam(DataConfig(files=("python:mine",)))
