"""The loop from end to end on small experiments: it learns, logs, saves, continues and gives up in time."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from launching import poison

from flaxmill.data.preparation.cache import prepare
from flaxmill.train import loop, recorder, train
from flaxmill.train.best import BestConfig
from flaxmill.train.caches import cache_directory
from flaxmill.train.checkpoint.checkpoints import CheckpointConfig, Checkpoints
from flaxmill.train.input_pipeline import make_batches
from flaxmill.train.metrics.flops import step_flops
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.optimizer.optimizers import OptimizerConfig
from flaxmill.train.recorder import DivergenceError
from flaxmill.train.resolution import resolve
from flaxmill.train.run.data_card import read_data_card
from flaxmill.train.run.directory import read_config
from flaxmill.train.run.samples import read_samples

pytestmark = pytest.mark.slow


def rows_of(result_or_directory, kind="loss"):
    directory = getattr(result_or_directory, "directory", result_or_directory)
    return [row for row in read_metrics(directory / "metrics.jsonl") if kind in row]


@pytest.fixture
def small(make_experiment):
    """An experiment of one layer with frequent checkpoints."""

    def make(objective="causal", **changes):
        changes = {"checkpoint": CheckpointConfig(every=4), "model": {"num_layers": 1}} | changes
        return make_experiment(objective, **changes)

    return make


def test_rows_are_complete_in_order_and_count_every_real_token(small):
    experiment = small()
    result = train(experiment)
    assert (result.step, result.preempted) == (8, False)
    rows = rows_of(result)
    assert [row["step"] for row in rows] == list(range(8))
    dataset = prepare(experiment.data, "causal", cache=cache_directory(), log=lambda line: None)
    batches = make_batches(dataset, "train", resolve(experiment, dataset.tokenizer))
    masks = [int(batches.batch(step)["mask"].sum()) for step in range(8)]
    assert [row["num_tokens"] for row in rows] == np.cumsum(masks).tolist()
    for row in rows:
        for name in ("loss", "grad_norm", "learning_rate"):
            assert 0 < float(np.float32(row[name])) == row[name]  # the device's float32, exactly
        assert row["step_seconds"] > 0
        assert row["data_seconds"] >= 0
        assert row["tokens_per_second"] > 0
        assert "mfu" not in row  # a CPU has no known peak
    rates = [row["learning_rate"] for row in rows]
    assert max(rates) == float(np.float32(3e-3))


def test_row_n_is_the_loss_before_update_n(small, tmp_path):
    """Rows 0 of two learning rates agree, since neither has acted; rows 1 do not."""
    one = rows_of(train(small()))
    other = rows_of(
        train(small(run_dir=str(tmp_path / "other"), optimizer=OptimizerConfig(learning_rate=1e-2)))
    )
    assert one[0]["loss"] == other[0]["loss"]
    assert one[1]["loss"] != other[1]["loss"]


def test_log_every_thins_the_rows_and_keeps_the_last(small):
    result = train(small(log_every=3))
    assert [row["step"] for row in rows_of(result)] == [0, 3, 6, 7]


def test_every_row_below_a_checkpoint_is_on_disk_before_it_is_saved(small, monkeypatch):
    experiment = small(checkpoint=CheckpointConfig(every=3))
    path = experiment.run_dir + "/metrics.jsonl"
    seen = {}
    save = Checkpoints.save

    def watch(checkpoints, step, state, metadata):
        assert int(state.step) == step
        with open(path, encoding="utf-8") as file:
            seen[step] = [json.loads(line)["step"] for line in file]
        save(checkpoints, step, state, metadata)

    monkeypatch.setattr(Checkpoints, "save", watch)
    train(experiment)
    assert seen == {3: [0, 1, 2], 6: list(range(6)), 8: list(range(8))}


def test_evaluations_on_the_way_and_at_the_end_have_rows_of_their_own(small):
    result = train(small(eval_every=3, eval_batches=1))
    evaluated = rows_of(result, "eval_loss")
    assert [row["step"] for row in evaluated] == [3, 6, 8]
    assert result.metrics["eval_loss"] == evaluated[-1]["eval_loss"]
    for row in evaluated:
        assert all(name.startswith("eval_") for name in row if name != "step")
    assert result.metrics["eval_unigram_entropy"] > result.metrics["eval_bigram_entropy"] > 0


@pytest.mark.parametrize(
    ("objective", "parts"),
    [("mlm_nsp", {"mlm_loss", "nsp_loss"}), ("hybrid", {"mlm_loss", "causal_loss"}), ("mlm", set())],
)
def test_parts_of_a_loss_have_their_own_names(small, objective, parts):
    result = train(small(objective))
    for row in rows_of(result):
        assert {name for name in row if name.endswith("_loss")} == parts
        assert row["loss"] > 1
    assert {f"eval_{part}" for part in parts} <= result.metrics.keys()


def test_tensorboard_files_appear_when_asked_for_and_not_otherwise(small, tmp_path):
    with_files = train(small(trackers=("tensorboard",)))
    without = train(small(run_dir=str(tmp_path / "other")))
    assert list((with_files.directory / "tensorboard").iterdir())
    assert not (without.directory / "tensorboard").exists()


@pytest.mark.parametrize("objective", ["causal", "mlm"])
def test_utilisation_counts_the_head_where_it_is_computed(small, monkeypatch, objective):
    """A causal model predicts at every place of a row, masked words are gathered before the head."""
    monkeypatch.setattr(recorder, "peak_flops", lambda kinds: 1e12)
    experiment = small(objective)
    result = train(experiment)
    resolved = read_config(result.directory).model
    row = rows_of(result)[-1]
    places = None if objective == "causal" else 5  # round(0.15 * 32)
    flops = step_flops(resolved, experiment.batch_size, 32, places).full
    assert row["mfu"] * row["step_seconds"] * 1e12 == pytest.approx(flops)


def test_a_model_overfits_one_batch(small, corpus, tmp_path):
    """Text for less than one batch: the loss falls from ln V to nearly nothing."""
    text = tmp_path / "one.txt"
    text.write_text(corpus.read_text()[:1000])
    experiment = small(
        steps=100,
        model={"num_layers": 1, "embed_dim": 64, "dropout": 0.0},
        optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=0.0),
        checkpoint=CheckpointConfig(every=1000),
    )
    data = dataclasses.replace(experiment.data, files=(str(text),), valid_files=(str(text),), vocab_size=300)
    rows = rows_of(train(dataclasses.replace(experiment, data=data)))
    assert rows[0]["loss"] > 5
    assert rows[-1]["loss"] < 0.2


def test_steps_move_nothing_between_host_and_device_that_they_do_not_name(small, monkeypatch):
    """Batches are placed and metrics are fetched by explicit calls; anything else would stall the device."""
    monkeypatch.setattr(loop, "_train_from", jax.transfer_guard("disallow")(loop._train_from))
    for name in ("_evaluate", "_conclude"):  # which compute on sums, and write a sample
        monkeypatch.setattr(loop, name, jax.transfer_guard("allow")(getattr(loop, name)))
    assert train(small(steps=10)).step == 10


def test_extend_continues_where_the_run_ended(small):
    experiment = small(steps=4)
    train(experiment)
    longer = dataclasses.replace(experiment, steps=8)
    with pytest.raises(ValueError, match="steps 4 -> 8; add --extend"):
        train(longer)
    result = train(longer, extend=True)
    rows = rows_of(result)
    assert [row["step"] for row in rows] == list(range(8))
    assert np.all(np.diff([row["num_tokens"] for row in rows]) > 0)
    assert Checkpoints(result.directory / "checkpoints", experiment.checkpoint).latest_step() == 8


def test_a_finished_run_given_again_only_evaluates_again(small):
    experiment = small(steps=4)
    first = train(experiment)
    checkpoints = sorted(path.name for path in (first.directory / "checkpoints").iterdir())
    again = train(experiment)
    assert again == first
    assert [row["step"] for row in rows_of(again)] == list(range(4))
    evaluated = rows_of(again, "eval_loss")
    assert len(evaluated) == 2
    assert evaluated[0] == evaluated[1]
    (card,) = (read_data_card(again.directory) or {}).values()
    assert card["statistics"]["train"]["num_tokens"] > 0
    assert list(read_samples(again.directory)) == [4]
    assert sorted(path.name for path in (first.directory / "checkpoints").iterdir()) == checkpoints


def test_one_batch_that_is_not_finite_is_skipped_and_training_goes_on(small, monkeypatch):
    poison(monkeypatch, {3})
    experiment = small(checkpoint=CheckpointConfig(every=3))
    result = train(experiment)
    rows = rows_of(result)
    assert [row["step"] for row in rows if row["loss"] is None] == [3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert np.isfinite(result.metrics["eval_loss"])
    assert saved_counters(result.directory, 8) == (8, 1)


def saved_counters(directory, step):
    """(step, skipped) of a checkpoint."""
    from flaxmill.model import abstract_params
    from flaxmill.sharding.mesh import make_mesh
    from flaxmill.train.optimizer.optimizers import make_optimizer
    from flaxmill.train.state import abstract_state

    experiment = read_config(directory)
    optimizer = make_optimizer(experiment.optimizer, abstract_params(experiment.model))
    described = abstract_state(experiment.model, optimizer, make_mesh(experiment.mesh))
    with Checkpoints(directory / "checkpoints", experiment.checkpoint) as checkpoints:
        state = checkpoints.open(step).restore(described)
    return int(state.step), int(state.skipped)


def test_too_many_steps_in_a_row_that_are_not_finite_end_the_run_by_name(small, monkeypatch):
    poison(monkeypatch, set(range(5, 100)))
    experiment = small(max_skipped_steps=3)
    with pytest.raises(DivergenceError, match=r"in 3 steps in a row \(5, 6, 7\)"):
        train(experiment)
    directory = Path(experiment.run_dir)
    finite = [row["step"] for row in rows_of(directory) if row["loss"] is not None]
    assert finite == [0, 1, 2, 3, 4]
    assert saved_counters(directory, 4) == (4, 0)


def test_the_count_of_skipped_steps_survives_a_restart(small, monkeypatch, stop_after):
    """Steps 3 and 4 are lost before a save at 5 and step 5 after it: three in a row all the same."""
    poison(monkeypatch, {3, 4, 5})
    experiment = small(max_skipped_steps=3)
    assert train(experiment, stop=stop_after(5)).preempted
    with pytest.raises(DivergenceError, match=r"\(3, 4, 5\)"):
        train(experiment)


def test_divergence_leaves_finite_weights(small):
    """A learning rate that blows the weights up: what a checkpoint holds is finite all the same."""
    experiment = small(
        max_skipped_steps=2,
        optimizer=OptimizerConfig(learning_rate=1e30, clip_norm=None, weight_decay=0.0, warmup_fraction=0),
        checkpoint=CheckpointConfig(every=1),
    )
    with pytest.raises(DivergenceError, match="not finite in 2 steps in a row"):
        train(experiment)
    with Checkpoints(Path(experiment.run_dir) / "checkpoints", experiment.checkpoint) as checkpoints:
        latest = checkpoints.latest_step()
        assert latest is not None
    assert saved_counters(Path(experiment.run_dir), latest)[1] == 1


def test_a_changed_corpus_is_refused(small, corpus, tmp_path, stop_after):
    text = tmp_path / "text.txt"
    text.write_text(corpus.read_text()[:60_000])
    experiment = small()
    data = dataclasses.replace(experiment.data, files=(str(text),))
    experiment = dataclasses.replace(experiment, data=data)
    train(experiment, stop=stop_after(2))
    text.write_text(corpus.read_text()[1000:60_000])
    with pytest.raises(ValueError, match=r"the dataset is now.*with --allow-other-data"):
        train(experiment)


def test_a_changed_corpus_is_taken_when_that_is_allowed(small, corpus, tmp_path, stop_after, capsys):
    text = tmp_path / "text.txt"
    text.write_text(corpus.read_text()[:60_000])
    experiment = small()
    experiment = dataclasses.replace(
        experiment, data=dataclasses.replace(experiment.data, files=(str(text),))
    )
    train(experiment, stop=stop_after(2))
    text.write_text(corpus.read_text()[1000:60_000])
    assert train(experiment, allow_other_data=True).step == 8
    assert "has changed: the dataset is now" in capsys.readouterr().err


class StopAt:
    """Stands in for the peers, which are told what this process does, and for a signal at one such moment."""

    def __init__(self, doing):
        self.requested, self._doing, self.places = False, doing, []

    def at(self, step, doing):
        self.places.append((step, doing))
        self.requested = self.requested or doing == self._doing

    def started(self): ...

    def saved(self): ...


def test_an_evaluation_that_is_told_to_stop_is_left_and_made_again(small, tmp_path):
    straight = train(small(eval_every=3, eval_batches=4, run_dir=str(tmp_path / "straight")))
    experiment = small(eval_every=3, eval_batches=4)
    stop = StopAt("evaluating batch 1")
    result = train(experiment, stop=stop, peers=stop)  # pyright: ignore[reportArgumentType]
    assert (result.preempted, result.step) == (True, 3)
    assert rows_of(result, "eval_loss") == []
    assert stop.places[-1] == (3, "saving")
    assert train(experiment).metrics == straight.metrics
    for kind in ("loss", "eval_loss"):
        found, expected = rows_of(result.directory, kind), rows_of(straight, kind)
        assert [(row["step"], row[kind]) for row in found] == [(row["step"], row[kind]) for row in expected]


def test_a_run_that_has_waited_long_enough_ends_wherever_it_continues(small, stop_after):
    """It was saved between evaluations, and its patience was lowered afterwards."""
    experiment = small(
        steps=8,
        eval_every=2,
        checkpoint=CheckpointConfig(every=3),
        best=BestConfig(metric="eval_loss"),
        optimizer=OptimizerConfig(learning_rate=1e-30),  # nothing gets better
    )
    stopped = train(experiment, stop=stop_after(7))
    assert (stopped.preempted, stopped.step) == (True, 5)
    impatient = dataclasses.replace(experiment, best=BestConfig(metric="eval_loss", patience=1))
    ended = train(impatient)
    assert not ended.preempted
    assert ended.step == 5
    assert ended.metrics["eval_loss"] > 0


def test_the_clock_saves_between_the_steps_that_are_due(small, monkeypatch):
    saved = []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, step, *rest: (saved.append(step), save(self, step, *rest))
    )
    train(small(steps=40, checkpoint=CheckpointConfig(every=1000, every_minutes=1e-9)))
    assert len(saved) > 1
    assert saved[-1] == 40
    assert len(set(saved)) == len(saved)
