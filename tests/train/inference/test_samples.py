"""What a run shows at its end is text that a person can judge."""

import re

import jax
import pytest

from flaxmill.data.preparation.cache import prepare
from flaxmill.model import init_params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.caches import cache_directory
from flaxmill.train.inference import samples
from flaxmill.train.inference.samples import sample_text
from flaxmill.train.input_pipeline import make_batches
from flaxmill.train.resolution import resolve

pytestmark = pytest.mark.slow


@pytest.fixture
def sample(make_experiment, monkeypatch):
    """The sample of an untrained model of an objective."""
    monkeypatch.setattr(samples, "SAMPLE_TOKENS", 5)

    def make(objective, **changes):
        experiment = make_experiment(objective, model={"num_layers": 1}, **changes)
        dataset = prepare(experiment.data, objective, cache=cache_directory(), log=lambda line: None)
        experiment = resolve(experiment, dataset.tokenizer)
        params = jax.jit(lambda: init_params(experiment.model, jax.random.key(0)))()
        batches = make_batches(dataset, "valid", experiment)
        mesh = make_mesh(experiment.mesh)
        return sample_text(experiment, params, batches, dataset.tokenizer, mesh), dataset.tokenizer

    return make


@pytest.mark.parametrize("objective", ["causal", "hybrid"])
def test_a_causal_model_continues_the_prompt(sample, objective):
    text, _ = sample(objective, prompt="The value of")
    assert text.startswith("'The value of' continues:\nThe value of")
    assert len(text) > len("'The value of' continues:\nThe value of")


def test_an_empty_prompt_begins_a_document(sample):
    text, _ = sample("causal", prompt="")
    assert text.startswith("'' continues:\n")
    assert len(text) > len("'' continues:\n")


def test_the_sample_follows_the_seed(sample):
    one, again, other = (sample("causal", seed=seed)[0] for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_a_prompt_longer_than_the_window_is_continued_all_the_same(sample):
    prompt = "a name that is bound to an object " * 10
    text, tokenizer = sample("causal", prompt=prompt)
    assert len(tokenizer.encode(prompt)) > 32
    assert text.startswith(f"{prompt!r} continues:\n{prompt}")


def test_an_encoder_fills_gaps_and_names_the_truth_where_it_is_wrong(sample):
    text, _ = sample("mlm_nsp")
    gaps = re.findall(r"\[([^\s\]]+), was ([^\s\]]+)\]", text)
    assert gaps
    assert all(filled != truth for filled, truth in gaps)
    assert "[MASK]" not in text
    assert len(text) <= samples.SAMPLE_CHARACTERS


def test_the_sample_can_be_drawn_on_a_mesh(sample):
    text, _ = sample("causal", mesh=MeshConfig(data=2, fsdp=2, tensor=2), prompt="The")
    assert text.startswith("'The' continues:\nThe")
