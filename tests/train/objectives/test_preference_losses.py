"""DPO's loss is its paper's formula over log-probabilities that PyTorch computes for each answer alone."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from chats import write_tokenizer

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.model import load_huggingface
from flaxmill.train.objectives.losses import combine, denominators, numerators

PAIRS = [("The sky", " is up", " fell"), ("a", "b", "cd"), ("one two", " three", " 3"), ("p", "", "q")]
BETA = 0.1


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two random models, as directories and in PyTorch: of the policy and of the reference."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=264,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
    )
    made = {}
    for seed, name in enumerate(("policy", "reference")):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config).eval()
        path = tmp_path_factory.mktemp(name)
        model.save_pretrained(path)
        made[name] = path, model.double()
    return made


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def batches(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in PAIRS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = (str(path),)
    config = DataConfig(files=files, valid_files=files, tokenizer=str(tokenizer), sequence_length=64)
    dataset = prepare(config, "dpo", cache=path.parent, log=lambda line: None)
    # Two rows more than there are pairs: these are padding.
    return dataset, Batches(dataset, "valid", config=config, objective="dpo", batch_size=6, seed=0)


def their_logps(model, tokenizer) -> np.ndarray:
    """[pairs,2], as in TRL: the sum of the log-probabilities of the tokens of an answer and its end token."""
    import torch
    import transformers

    their = transformers.AutoTokenizer.from_pretrained(tokenizer)
    found = np.zeros((len(PAIRS), 2))
    for row, (prompt, *answers) in enumerate(PAIRS):
        for column, answer in enumerate(answers):
            first = their(prompt, add_special_tokens=False)["input_ids"]
            ids = [*first, *their(answer, add_special_tokens=False)["input_ids"], their.eos_token_id]
            with torch.no_grad():
                logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            found[row, column] = sum(
                float(logps[place - 1, ids[place]]) for place in range(len(first), len(ids))
            )
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_rewards_are_the_formula_over_logps_of_pytorch(smoothing, models, tokenizer, batches):
    policy, reference = (their_logps(models[name][1], tokenizer) for name in ("policy", "reference"))
    dataset, its_batches = batches
    dataset.put_beside("valid", "reference", reference.astype(np.float32))
    config, params = load_huggingface(models["policy"][0])
    batch: Any = its_batches.batch(0)
    sums = jax.jit(
        lambda params, batch: numerators(
            "dpo", config, params, batch, max_predictions=None, label_smoothing=smoothing, beta=BETA
        )
    )(params, batch)
    found = combine("dpo", 0.0, sums, denominators("dpo", batch))
    rewards = BETA * (policy - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    loss = (1 - smoothing) * np.log1p(np.exp(-margins)) + smoothing * np.log1p(np.exp(margins))
    expected = {
        "loss": loss.mean(),
        "rewards/chosen": rewards[:, 0].mean(),
        "rewards/rejected": rewards[:, 1].mean(),
        "rewards/margins": margins.mean(),
        "rewards/accuracies": (margins > 0).mean(),
    }
    assert np.abs(margins).min() > 0.01
    # Sums of log-probabilities near -40, in float32, differ by a few 1e-6; beta is 0.1.
    assert {name: float(found[name]) for name in expected} == pytest.approx(expected, abs=1e-6)
    logps = {"logps/chosen": policy[:, 0].mean(), "logps/rejected": policy[:, 1].mean()}
    assert {name: float(found[name]) for name in logps} == pytest.approx(logps, rel=1e-6)
    assert set(found) == {*expected, *logps}
