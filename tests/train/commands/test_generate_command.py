"""`flaxmill generate`: text from a run or a directory, gaps that an encoder fills, mistakes in one line."""

import json
import shutil

import jax
import numpy as np
import pytest

from flaxmill.data.preparation.cache import prepare
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model import apply, init_params, save_huggingface
from flaxmill.train.caches import cache_directory
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.checkpoint.store import PARAMS
from flaxmill.train.resolution import resolve
from flaxmill.train.run.directory import CHECKPOINTS, open_run_directory, write_config

pytestmark = pytest.mark.slow


@pytest.fixture
def make_run(make_experiment, tmp_path):
    """Makes a run of untrained weights, with the files that generation reads."""

    def make(objective, model=None):
        run = tmp_path / objective
        experiment = make_experiment(objective, model={"num_layers": 1, **(model or {})}, run_dir=str(run))
        dataset = prepare(experiment.data, objective, cache=cache_directory(), log=lambda line: None)
        experiment = resolve(experiment, dataset.tokenizer)
        params = jax.jit(lambda: init_params(experiment.model, jax.random.key(0)))()
        open_run_directory(experiment)
        with Checkpoints(run / CHECKPOINTS, experiment.checkpoint) as checkpoints:
            checkpoints.save(1, {PARAMS: params}, {})
        write_config(run, experiment, dataset.tokenizer)
        return run, experiment.model, params, dataset.tokenizer

    return make


@pytest.fixture
def gpt(make_run):
    return make_run("causal")


def test_a_run_writes_new_tokens_alone_as_json(gpt, flaxmill):
    run, config, params, tokenizer = gpt
    prompts = ["The value", "an object"]
    code, out, err = flaxmill("generate", run, *prompts, "--max-new-tokens", 6, "--temperature", 0, "--json")
    assert (code, err) == (0, "")
    written = json.loads(out)
    assert written.keys() == {"text", "tokens"}
    assert [tokenizer.decode(tokens) for tokens in written["tokens"]] == written["text"]
    for prompt, tokens in zip(prompts, written["tokens"], strict=True):
        ids = tokenizer.encode(prompt)
        best = _logits(config, params, [*ids, *tokens]).argmax(-1)
        assert tokens == best[len(ids) - 1 : -1].tolist()
        assert len(tokens) == 6 or tokens[-1] == tokenizer.closing_id


def _logits(config, params, ids):
    """[T,V], of a row that is padded to a length that compiles once."""
    padded = np.asarray([ids + [0] * (24 - len(ids))])
    mask = np.arange(24)[None] < len(ids)
    read = jax.jit(apply, static_argnums=0)
    return np.asarray(read(config, params, {"tokens": padded, "mask": mask.astype(np.int32)})["logits"][0])[
        : len(ids)
    ]


def test_one_prompt_is_continued_on_the_terminal(gpt, flaxmill):
    run, *_ = gpt
    flags = ("--max-new-tokens", 20, "--temperature", 0)
    _, out, _ = flaxmill("generate", run, "The value", *flags, "--json")
    assert flaxmill("generate", run, "The value", *flags) == (
        0,
        f"The value{json.loads(out)['text'][0]}\n",
        "",
    )


def test_several_texts_are_told_apart(gpt, flaxmill):
    run, *_ = gpt
    flags = ("--max-new-tokens", 4, "--temperature", 1.5, "--num-samples", 2)
    code, out, _ = flaxmill("generate", run, "The", "A", *flags)
    assert code == 0
    assert out.count("'The' continues:\n") == out.count("'A' continues:\n") == 2


def test_seeds_decide_what_is_drawn(gpt, flaxmill):
    run, *_ = gpt
    draw = lambda seed: flaxmill("generate", run, "The", "--temperature", 1, "--seed", seed, "--json")[1]  # noqa: E731
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_stop_string_ends_the_text_before_it(gpt, flaxmill):
    run, *_, tokenizer = gpt
    flags = ("--temperature", 1, "--seed", 3, "--max-new-tokens", 20)
    whole = json.loads(flaxmill("generate", run, "The", *flags, "--json")[1])
    stop = whole["text"][0][5:7]
    cut = json.loads(flaxmill("generate", run, "The", *flags, "--json", "--stop", stop)[1])
    assert cut["text"] == [whole["text"][0].partition(stop)[0]]
    assert cut["tokens"][0] == whole["tokens"][0][: len(cut["tokens"][0])]
    assert stop in tokenizer.decode(cut["tokens"][0])
    assert stop not in tokenizer.decode(cut["tokens"][0][:-1])
    _, out, _ = flaxmill("generate", run, "The", *flags, "--stop", stop)
    assert out == f"The{cut['text'][0]}\n"


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_weights_are_chosen_on_the_command_line(gpt, flaxmill, weights):
    code, out, err = flaxmill("generate", gpt[0], "Hello", "--weights", weights, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["tokens"][0]


def test_int8_on_several_devices_is_one_line(gpt, flaxmill):
    err = _refusal(flaxmill, gpt[0], "Hello", "--weights", "int8", "--mesh.data", 2)
    assert "weights=int8 is for one CPU device" in err


def test_a_huggingface_directory_gives_what_its_run_gives(gpt, flaxmill, tmp_path):
    run, config, params, tokenizer = gpt
    save_huggingface(tmp_path / "hf", config, params, tokenizer_json=tokenizer.to_json())
    flags = ("The value", "--max-new-tokens", 6, "--json")
    assert flaxmill("generate", tmp_path / "hf", *flags)[1] == flaxmill("generate", run, *flags)[1]


def test_beams_are_given_on_the_command_line(gpt, flaxmill):
    run, *_ = gpt
    flags = ("--num-beams", 3, "--num-samples", 2, "--max-new-tokens", 4, "--json")
    code, out, _ = flaxmill("generate", run, "The", *flags)
    assert code == 0
    assert len(json.loads(out)["text"]) == 2


def test_an_encoder_fills_its_gaps(make_run, flaxmill):
    run, config, params, tokenizer = make_run("mlm")
    prompt = "the [MASK] of an [MASK]"
    code, out, _ = flaxmill("generate", run, prompt, "--json", "--candidates", 3)
    assert code == 0
    filled = json.loads(out)
    assert [len(tokens) for tokens in filled["tokens"]] == [2]
    assert "[MASK]" not in filled["text"][0]
    ids = [tokenizer.cls_id]
    for word in prompt.split():
        ids += [tokenizer.mask_id] if word == "[MASK]" else tokenizer.encode(word)
    ids.append(tokenizer.sep_id)
    logits = _logits(config, params, ids)
    places = [place for place, id_ in enumerate(ids) if id_ == tokenizer.mask_id]
    assert filled["tokens"] == [logits[places].argmax(-1).tolist()]
    best = [gap[0]["probability"] for gap in filled["candidates"][0]]
    np.testing.assert_allclose(best, jax.nn.softmax(logits[places]).max(-1), rtol=1e-4)
    _, out, _ = flaxmill("generate", run, prompt, "--candidates", 3)
    assert out.startswith(f"{filled['text'][0]}\n  gap 0: ")


def _refusal(flaxmill, *arguments):
    code, out, err = flaxmill("generate", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("flaxmill: error: ")
    assert err.count("\n") == 1
    return err


def test_mistakes_are_one_line(gpt, flaxmill, tmp_path):
    run, *_ = gpt
    assert "SOURCE and a PROMPT come first, neither is given" in _refusal(flaxmill)
    assert "no prompt is given" in _refusal(flaxmill, run)
    assert "a prompt is empty" in _refusal(flaxmill, run, "")
    assert "prompt 2 is not UTF-8 at character 2; give" in _refusal(flaxmill, run, "ab", "ab\udcff", "--json")
    assert "temperature=-1.0 must be 0" in _refusal(flaxmill, run, "The", "--temperature", -1)
    assert "num_beams=2 draws nothing" in _refusal(flaxmill, run, "The", "--num-beams", 2, "--temperature", 1)
    assert "stop='' would end" in _refusal(flaxmill, run, "The", "--stop", "")
    assert "leaves no room in model.max_positions=32" in _refusal(flaxmill, run, "a name " * 40)
    assert "is neither a run nor a Hugging Face model" in _refusal(flaxmill, tmp_path / "nothing", "The")
    assert "did you mean --temperature" in _refusal(flaxmill, run, "The", "--temprature", 1)


def test_a_tokenizer_that_does_not_fit_is_refused(gpt, flaxmill, tmp_path):
    _, config, params, tokenizer = gpt
    directory = tmp_path / "hf"
    save_huggingface(directory, config, params)
    assert "has no tokenizer.json or vocab.txt" in _refusal(flaxmill, directory, "The")
    larger = Tokenizer(tokenizer.inner)
    larger.inner.add_tokens(["<one>", "<two>"])
    larger.save(directory / "tokenizer.json")
    assert "ids but the model's vocabulary has 400" in _refusal(flaxmill, directory, "The")


def test_encoders_without_a_gap_or_a_head_are_refused(make_run, flaxmill):
    run, *_ = make_run("mlm")
    assert "prompt 0 has no gap: an encoder fills [MASK]" in _refusal(flaxmill, run, "no gap here")
    assert "exceeds model.max_positions=32" in _refusal(flaxmill, run, "[MASK] " * 40)
    shutil.rmtree(run / CHECKPOINTS)
    assert "holds no checkpoint yet" in _refusal(flaxmill, run, "a [MASK]")
