import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.run.directory import (
    Allowed,
    check_run_directory,
    describe_differences,
    differences,
    open_run_directory,
    read_config,
    read_trained_config,
    write_config,
)

TRAINED = Experiment(
    name="trained", steps=100, model=ModelConfig(vocab_size=500, max_positions=128, head="lm", causal=True)
)


class FakeTokenizer:
    def save(self, path: Path) -> None:
        path.write_text("{}")

    save_settings = save


TOKENIZER: Any = FakeTokenizer()


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of TRAINED that has written a row of metrics."""
    write_config(tmp_path, TRAINED, TOKENIZER)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    return tmp_path


def test_fresh_runs_are_numbered(tmp_path):
    names = [open_run_directory(Experiment(name="gpt"), tmp_path / "runs").name for _ in range(3)]
    assert names == ["gpt-1", "gpt-2", "gpt-3"]


def test_runs_that_start_at_once_do_not_share_a_directory(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(lambda _: open_run_directory(Experiment(), tmp_path), range(32)))
    assert len(set(places)) == 32


def test_a_named_directory_is_made_with_its_parents_and_may_be_there_already(tmp_path):
    experiment = Experiment(run_dir=str(tmp_path / "a" / "b"))
    assert open_run_directory(experiment) == open_run_directory(experiment) == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("place", ["file/below/it", "file"])
def test_a_path_at_or_below_a_file_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"{place} cannot be written \(.*\); give another --run-dir"):
        open_run_directory(Experiment(run_dir=str(tmp_path / place)))


@pytest.mark.parametrize("mount", ["/proc", "/sys"])
def test_a_place_that_takes_no_files_is_refused(mount):
    if not Path(mount).is_dir():
        pytest.skip(f"no {mount} here")
    for place in (mount, f"{mount}/runs"):
        with pytest.raises(ValueError, match=rf"the run directory {place} cannot be written"):
            open_run_directory(Experiment(run_dir=place))


def test_fresh_runs_below_a_file_are_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ValueError, match="runs cannot be written"):
        open_run_directory(Experiment(name="gpt"), tmp_path / "runs")


def test_the_config_is_read_as_it_was_written(tmp_path):
    write_config(tmp_path, TRAINED, TOKENIZER)
    assert read_config(tmp_path) == TRAINED
    names = ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_write_that_fails_leaves_the_old_file_whole(run):
    class Failing:
        def save(self, path: Path) -> None:
            path.write_text("half")
            raise OSError("disk full")

    failing: Any = Failing()
    with pytest.raises(OSError, match="disk full"):
        write_config(run, TRAINED, failing)
    assert (run / "tokenizer.json").read_text() == "{}"
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def check_continuation(run, experiment, *, extend=False):
    check_run_directory(replace(experiment, run_dir=str(run)), Allowed(extend))


def test_the_same_experiment_continues(run):
    check_continuation(run, TRAINED)


def test_the_same_experiment_continues_before_it_is_resolved(run):
    check_continuation(run, replace(TRAINED, model=ModelConfig()))


def test_where_it_runs_and_what_it_reports_may_change(run):
    check_continuation(
        run,
        replace(
            TRAINED,
            name="other",
            log_every=1,
            eval_every=2,
            eval_batches=3,
            trackers=("tensorboard",),
            log_digests=True,
            prompt="x",
            mesh=MeshConfig(data=1, fsdp=2),
            checkpoint=CheckpointConfig(every=7),
        ),
    )


def test_another_config_is_refused_with_what_differs(run):
    other = replace(TRAINED, seed=1, model=replace(TRAINED.model, num_layers=3))
    with pytest.raises(ValueError, match="was trained with another config") as caught:
        check_continuation(run, other, extend=True)
    assert str(caught.value) == (
        f"{run} was trained with another config: seed 0 -> 1, model.num_layers 2 -> 3; "
        "give the old values, or another --run-dir"
    )


@pytest.mark.parametrize(
    "other",
    [
        replace(TRAINED, batch_size=16),
        replace(TRAINED, accumulate=2),
        replace(TRAINED, data=DataConfig(files=("a",))),
        replace(TRAINED, optimizer=replace(TRAINED.optimizer, clip_norm=None)),
        replace(TRAINED, model=replace(TRAINED.model, dropout=0.1)),
    ],
)
def test_what_changes_the_maths_is_refused(run, other):
    with pytest.raises(ValueError, match="was trained with another config"):
        check_continuation(run, other)


def test_more_steps_hint_at_extend_and_continue_with_it(run):
    longer = replace(TRAINED, steps=150)
    with pytest.raises(ValueError, match=r"steps 100 -> 150; add --extend to continue to 150"):
        check_continuation(run, longer)
    check_continuation(run, longer, extend=True)


@pytest.mark.parametrize("extend", [False, True])
def test_steps_never_shrink(run, extend):
    with pytest.raises(ValueError, match=r"steps 100 -> 50; .*give --steps 100"):
        check_continuation(run, replace(TRAINED, steps=50), extend=extend)


def test_a_run_that_never_took_a_step_takes_another_config(run):
    (run / "metrics.jsonl").write_text("")
    check_continuation(run, replace(TRAINED, seed=1))
    (run / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(ValueError, match="seed 0 -> 1"):
        check_continuation(run, replace(TRAINED, seed=1))


def test_progress_without_a_config_is_refused(run):
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config.json cannot be read \(no such file or directory\)"):
        check_continuation(run, TRAINED)


@pytest.mark.parametrize("text", ["{", "[]", '{"stepz": 1}', '{"steps": 0}', "\xff"])
def test_a_damaged_config_is_refused_by_name(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config.json is not a config of this version"):
        read_config(tmp_path)


def test_a_run_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a run directory"):
        read_config(tmp_path / "nowhere")


def test_differences_read_as_one_would_type_them():
    new = replace(
        TRAINED,
        prompt="a b",
        data=DataConfig(files=("x", "y z")),
        optimizer=replace(TRAINED.optimizer, clip_norm=None),
    )
    assert describe_differences(differences(TRAINED, new)) == (
        "prompt 'The ' -> 'a b', data.files [] -> [x, 'y z'], optimizer.clip_norm 1.0 -> None"
    )


def test_config_json_is_plain_json_for_other_programs(tmp_path):
    write_config(tmp_path, TRAINED, TOKENIZER)
    values = json.loads((tmp_path / "config.json").read_text())
    assert (values["steps"], values["model"]["vocab_size"], values["data"]["files"]) == (100, 500, [])


def test_what_a_kill_left_half_written_is_cleared(tmp_path):
    for name in (".77-config.json", ".78-tokenizer.json"):
        (tmp_path / name).write_text("{")
    write_config(tmp_path, Experiment(), None)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_name_that_is_too_long_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"^the run directory .*xx cannot be written \(file name too long\)"):
        check_run_directory(Experiment(run_dir=str(tmp_path / ("x" * 300))))


def test_a_name_with_folders_in_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^name=a/b must be the name of a directory, without /; give --run"):
        open_run_directory(Experiment(name="a/b"), tmp_path)


def test_a_config_of_endless_brackets_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json is not a config of this version: maximum recursion"):
        read_config(tmp_path)


@pytest.mark.parametrize("target", [None, "/dev/zero"])
def test_a_config_without_an_end_is_refused(target, tmp_path):
    file = tmp_path / "config.json"
    os.mkfifo(file) if target is None else file.symlink_to(target)
    with pytest.raises(ValueError, match=r"cannot be read \(it is not a file\); give a directory"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["vocab_size", "head", "causal"])
def test_a_config_that_leaves_open_what_training_derives_is_refused(name, tmp_path):
    write_config(tmp_path, TRAINED, TOKENIZER)
    assert read_trained_config(tmp_path) == TRAINED
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["model"][name] = None
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert read_config(tmp_path) != TRAINED
    with pytest.raises(ValueError, match=f"does not set model.{name}, as training does; restore it"):
        read_trained_config(tmp_path)
