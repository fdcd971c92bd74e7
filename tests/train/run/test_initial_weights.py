"""A run may begin with the weights of another; what the two do not share is drawn, and the log says so."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from flaxmill.data.preparation.cache import prepare
from flaxmill.model.functional import init_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train import train
from flaxmill.train.caches import cache_directory
from flaxmill.train.metrics.metrics_file import read_metrics
from flaxmill.train.resolution import resolve
from flaxmill.train.run.initial_weights import initial_params
from flaxmill.train.run.restoring import load_params

pytestmark = pytest.mark.slow

MESH = MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.fixture
def source(make_experiment, tmp_path):
    """A run of BERT with both heads, after three steps."""
    return train(make_experiment("mlm_nsp", steps=3, run_dir=str(tmp_path / "source"))).directory


@pytest.fixture
def begin(make_experiment, source):
    """Gives an experiment's initial parameters on a mesh of eight, and what was said."""

    def begin(objective, **changes):
        experiment = make_experiment(objective, init_from=str(source), mesh=MESH, **changes)
        dataset = prepare(experiment.data, objective, cache=cache_directory(), log=lambda line: None)
        experiment = resolve(experiment, dataset.tokenizer)
        said = []
        mesh = make_mesh(MESH)
        with jax.set_mesh(mesh):
            params = initial_params(experiment, mesh, dataset.tokenizer, said.append)
        theirs, _, _ = load_params(source, dataclasses.replace(experiment, model=params_model(source)), mesh)
        return experiment, params, theirs, said

    return begin


def params_model(run):
    from flaxmill.train.run.directory import read_config

    return read_config(run).model


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_same_model_takes_everything(begin):
    _, params, theirs, said = begin("mlm_nsp")
    assert_same(params, theirs)
    assert said == []


def test_a_head_that_the_other_lacks_is_left_out_and_said(begin, source):
    _, params, theirs, said = begin("mlm")
    assert set(theirs) - set(params) == {"nsp", "pooler"}
    assert_same(params, {group: theirs[group] for group in params})
    assert said == [f"{source} has pooler and nsp, which this model does not have: left out"]


def test_a_head_that_only_this_one_has_is_drawn_from_the_seed_and_said(begin, source, make_experiment):
    headless = train(make_experiment("mlm", steps=2, run_dir=f"{source}-mlm")).directory
    experiment = make_experiment("mlm_nsp", init_from=str(headless), seed=5, mesh=MESH)
    dataset = prepare(experiment.data, "mlm_nsp", cache=cache_directory(), log=lambda line: None)
    experiment = resolve(experiment, dataset.tokenizer)
    said, mesh = [], make_mesh(MESH)
    with jax.set_mesh(mesh):
        params = initial_params(experiment, mesh, dataset.tokenizer, said.append)
        drawn = jax.jit(init_params, static_argnums=0)(experiment.model, jax.random.key(5))
    assert_same(params["nsp"], drawn["nsp"])
    assert_same(params["pooler"], drawn["pooler"])
    assert said == [f"{headless} lacks pooler and nsp: drawn from seed 5"]


def test_another_body_is_refused(begin):
    with pytest.raises(ValueError, match=r"holds another model: .*model.embed_dim 32 -> 64"):
        begin("mlm_nsp", model={"embed_dim": 64})


def test_training_begins_where_the_other_ended_and_continues_its_own(
    source, make_experiment, tmp_path, stop_after
):
    experiment = make_experiment("mlm_nsp", steps=4, init_from=str(source), run_dir=str(tmp_path / "further"))
    assert train(experiment, stop=stop_after(2)).preempted
    result = train(experiment)
    rows = [row for row in read_metrics(result.directory / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    first = next(row for row in read_metrics(source / "metrics.jsonl") if row["step"] == 0)
    assert rows[0]["loss"] < first["loss"]


def test_a_run_begins_alike_again_although_the_other_trained_on(
    source, make_experiment, tmp_path, monkeypatch
):
    experiment = make_experiment("mlm_nsp", steps=2, init_from=str(source), run_dir=str(tmp_path / "further"))
    with monkeypatch.context() as patch:
        patch.setattr("flaxmill.train.loop._train_from", lambda *_: 1 / 0)  # it ends before its first step
        with pytest.raises(ZeroDivisionError):
            train(experiment)
    shutil.rmtree(source / "checkpoints")
    assert train(experiment).step == 2


def test_mistakes_are_named(source, make_experiment, tmp_path):
    def start(**changes):
        train(make_experiment("mlm_nsp", steps=2, run_dir=str(tmp_path / "new"), **changes))

    with pytest.raises(ValueError, match=r"init_from=.*/nowhere is neither a run nor a Hugging Face"):
        start(init_from=str(tmp_path / "nowhere"))
    own = (source / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(own)
    (source / "tokenizer.json").write_text(own.replace("[MASK]", "[GAP]"))
    data = dataclasses.replace(make_experiment("mlm_nsp").data, tokenizer=str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="was trained with another tokenizer"):
        start(init_from=str(source), data=data)
