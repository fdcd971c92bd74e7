import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from flaxmill.train.commands.checkpoints_command import run as checkpoints_command

STATE = {
    "params": {"x": jnp.arange(2_000, dtype=jnp.float32), "half": jnp.ones((3, 4), jnp.bfloat16)},
    "step": jnp.int32(3),
}
VERSIONS = {"flaxmill": "0.1.0", "python": "3.11.7", "jax": "0.10.2", "orbax-checkpoint": "0.12.8"}
METADATA = {
    "saved_at": "2026-01-02T03:04:05+00:00",
    "versions": VERSIONS,
    "mesh": {"data": 2},
    "num_processes": 1,
}


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """Checkpoints as a run leaves them; the oldest is of a version that recorded less."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with Checkpoints(run / "checkpoints", CheckpointConfig(keep_last=3)) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, STATE, METADATA if step > 10 else {})
    return run


@pytest.fixture
def run(saved, tmp_path) -> Path:
    return shutil.copytree(saved, tmp_path / "run")


def flip_a_byte(checkpoint: Path) -> Path:
    (file,) = checkpoint.glob("params/ocdbt.process_0/d/*")
    data = bytearray(file.read_bytes())
    data[1_000] ^= 1
    file.write_bytes(data)
    return file


def listed(capsys, *arguments) -> tuple[int, list[dict]]:
    code = checkpoints_command([str(argument) for argument in (*arguments, "--json")])
    return code, json.loads(capsys.readouterr().out)["checkpoints"]


def test_whole_checkpoints_are_listed_with_where_they_come_from(run, capsys):
    code, found = listed(capsys, run)
    assert code == 0
    assert [(one["step"], one["verdict"], one["problems"]) for one in found] == [
        (10, "whole", []),
        (20, "whole", []),
        (30, "whole", []),
    ]
    assert found[0]["versions"] is None
    assert found[2]["versions"] == VERSIONS
    assert found[2]["saved_at"] == METADATA["saved_at"]
    files = [path for path in (run / "checkpoints" / "30").rglob("*") if path.is_file()]
    assert found[2]["num_bytes"] == sum(path.stat().st_size for path in files)


def test_a_run_may_be_named_from_where_one_stands(run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    code, found = listed(capsys, run.name)
    assert (code, [one["verdict"] for one in found]) == (0, ["whole"] * 3)


def test_damaged_ones_are_named_and_the_exit_code_says_so(run, capsys):
    file = flip_a_byte(run / "checkpoints" / "20")
    (run / "checkpoints" / "30" / "_CHECKPOINT_METADATA").unlink()
    code, found = listed(capsys, run)
    assert code == 1
    assert [one["verdict"] for one in found] == ["whole", "damaged", "damaged"]
    where = file.relative_to(run / "checkpoints" / "20")
    assert found[1]["problems"] == [f"params/x in {where} is not what was saved (digest differs)"]
    assert found[2]["problems"] == ["its manifest cannot be read: _CHECKPOINT_METADATA is missing"]


def test_quick_reads_no_array(run, capsys):
    flip_a_byte(run / "checkpoints" / "20")
    shutil.rmtree(run / "checkpoints" / "30" / "params" / "ocdbt.process_0")
    code, found = listed(capsys, run, "--quick")
    assert code == 1
    assert [one["verdict"] for one in found] == ["not read", "not read", "damaged"]
    shutil.rmtree(run / "checkpoints" / "30")
    assert listed(capsys, run, "--quick")[0] == 0


def test_what_else_lies_there_is_listed_and_is_no_damage(run, capsys):
    for name in ("5.damaged.2", "40.orbax-checkpoint-tmp", "1.discarded"):
        (run / "checkpoints" / name).mkdir()
    code, found = listed(capsys, run)
    assert code == 0
    assert [(one["name"], one["step"], one["verdict"]) for one in found[3:]] == [
        ("1.discarded", None, "discarded"),
        ("40.orbax-checkpoint-tmp", None, "unfinished"),
        ("5.damaged.2", None, "set aside"),
    ]


def test_a_checkpoint_of_a_later_version_is_unreadable_not_damaged(run, capsys):
    from flaxmill.train.checkpoint.manifest import checksum

    path = run / "checkpoints" / "30" / "_CHECKPOINT_METADATA"
    stored = json.loads(path.read_text())
    content = stored["custom_metadata"]["flaxmill"] | {"format": 99}
    stored["custom_metadata"] = {"flaxmill": content, "checksum": checksum(content)}
    path.write_text(json.dumps(stored))
    code, found = listed(capsys, run)
    assert code == 1
    assert found[2]["verdict"] == "unreadable"
    assert "has format 99; this version of flaxmill reads 1" in found[2]["problems"][0]


def test_the_table_reads_well(run, capsys):
    flip_a_byte(run / "checkpoints" / "20")
    (run / "checkpoints" / "40.orbax-checkpoint-tmp").mkdir()
    assert checkpoints_command([str(run)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "size", "verdict", "saved", "at", "by"]
    assert lines[1].split()[0] == "10"
    assert lines[1].split()[3:] == ["whole", "unknown", "unknown"]
    assert lines[2].endswith("2026-01-02T03:04:05+00:00   flaxmill 0.1.0, jax 0.10.2, orbax 0.12.8")
    assert "damaged" in lines[2]
    assert lines[3].startswith(" " * 16 + "params/x in params/ocdbt.process_0/d/")
    assert "unfinished" in "".join(lines)
    assert all(len(line) <= 130 for line in lines)


def test_a_run_without_checkpoints_is_empty(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert listed(capsys, tmp_path) == (0, [])
    assert checkpoints_command([str(tmp_path)]) == 0
    assert f"{tmp_path} holds no checkpoint yet" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["none"], ["/"], [], ["a", "b"], ["none", "--jsn"]])
def test_what_is_no_run_is_a_mistake(arguments):
    with pytest.raises(ValueError, match=r"run directory|RUN|unknown field"):
        checkpoints_command(arguments)


def test_it_runs_beside_accelerators_without_touching_them(run):
    code = (
        "import sys; from flaxmill.train.commands import checkpoints_command; "
        "checkpoints_command.run([sys.argv[1], '--json'])"
    )
    environment = os.environ | {"JAX_PLATFORMS": "none_such"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], env=environment, capture_output=True, text=True, check=True
    )
    assert [one["verdict"] for one in json.loads(done.stdout)["checkpoints"]] == ["whole"] * 3


def test_memory_holds_one_array_at_a_time(tmp_path, capsys, monkeypatch):
    from flaxmill.train.checkpoint import damage as checkpoint_check

    state = {"params": {f"x{number}": jnp.ones(1_000) for number in range(5)}}
    with Checkpoints(tmp_path / "checkpoints", CheckpointConfig()) as checkpoints:
        checkpoints.save(1, state, {})
    read, sizes = checkpoint_check.read_array, []

    def watch(path, name):
        array = read(path, name)
        sizes.append(np.asarray(array).nbytes)
        return array

    monkeypatch.setattr(checkpoint_check, "read_array", watch)
    assert listed(capsys, tmp_path)[0] == 0
    assert sizes == [4_000] * 5
