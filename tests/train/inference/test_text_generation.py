"""Text continues its prompt as transformers writes it, and ends where the model's files say."""

import json
import shutil
from typing import Any

import pytest
import small_llama

from flaxmill.model import GenerationConfig
from flaxmill.train.inference.text_generation import stream_texts, write_texts
from flaxmill.train.inference.text_model import load_text_model
from flaxmill.train.run.decoding_settings import read_decoding
from flaxmill.train.run.importing import import_run

pytestmark = pytest.mark.slow

PROMPT, OPTIONS = "a grey cat", GenerationConfig(max_new_tokens=6)


@pytest.fixture(scope="module")
def llama():
    return load_text_model(small_llama.directory())


def _with_ends(tmp_path, name, ends):
    shutil.copytree(small_llama.directory(), tmp_path / "llama")
    path = tmp_path / "llama" / name
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(settings | {"eos_token_id": ends}))
    return load_text_model(tmp_path / "llama")


def test_what_is_new_joins_its_prompt_as_transformers_full_text_does(llama):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(small_llama.directory())
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(small_llama.directory())
    ids = model.generate(**tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=6, do_sample=False)
    written = write_texts(llama, [PROMPT], OPTIONS)
    assert written.texts == [" sleeps all day"]
    assert PROMPT + written.texts[0] == tokenizer.decode(ids[0], skip_special_tokens=True)


def test_streamed_text_keeps_its_first_blank(llama):
    assert "".join(news[0] for news in stream_texts(llama, [PROMPT], OPTIONS)) == " sleeps all day"


def test_a_stop_string_may_begin_with_the_blank_behind_the_prompt(llama):
    assert write_texts(llama, [PROMPT, "a grey"], OPTIONS, (" sleeps",)).texts == ["", " cat"]


def test_half_a_character_at_the_end_of_a_prompt_is_finished(llama):
    # "é" in bytes: the prompt ends with the first of them.
    ids = [*llama.read("a"), *(llama.tokenizer.inner.token_to_id(f"<0x{byte:02X}>") for byte in "é".encode())]
    broken = llama._replace(read=lambda text: ids[:-1])
    text = write_texts(broken, ["a"], GenerationConfig(max_new_tokens=1, end_ids=()))
    assert "\ufffd\ufffd" not in text.texts[0]


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_every_end_token_of_a_list_ends_a_text(name, llama, tmp_path):
    sleeps = llama.tokenizer.inner.token_to_id("▁sleeps")
    model = _with_ends(tmp_path, name, [2, sleeps])
    written = write_texts(model, [PROMPT], OPTIONS)
    assert (written.texts, written.tokens) == ([" sleeps"], [[sleeps]])


def test_a_special_token_that_a_prompt_spells_is_that_token_unless_markup_is_off(llama):
    assert llama.read("a</s>b")[2] == 2
    plain = load_text_model(small_llama.directory(), markup=False)
    assert 2 not in plain.read("a</s>b")
    assert plain.read("a")[0] == 1  # the token before a prompt is not text


def test_settings_that_are_not_followed_are_named_once(llama, tmp_path, caplog):
    shutil.copytree(small_llama.directory(), tmp_path / "llama")
    settings = {
        "min_new_tokens": 3,
        "no_repeat_ngram_size": 0,
        "temperature": 0.7,
        "bad_words_ids": [[5], [6, 7]],
    }
    (tmp_path / "llama" / "generation_config.json").write_text(json.dumps(settings))
    with caplog.at_level("WARNING"):
        model = load_text_model(tmp_path / "llama")
    (said,) = [record.getMessage() for record in caplog.records if "not followed" in record.getMessage()]
    assert said == (
        "generation_config.json: min_new_tokens=3, bad_words_ids of several tokens is not followed here"
    )
    assert model.decoding["suppressed_ids"] == (5,)


@pytest.mark.parametrize("name", ["eos_token_id", "suppress_tokens", "bad_words_ids"])
@pytest.mark.parametrize("value", ["x", [1.5], [True], [-1], {"a": 1}])
def test_ids_that_are_none_are_one_line(name, value, llama, tmp_path):
    with pytest.raises(
        ValueError, match=rf"generation_config\.json: {name}=.* holds something that is not a"
    ):
        read_decoding({name: value}, llama.config, llama.tokenizer, is_run=False)


def test_without_generation_settings_those_of_config_json_count_also_of_an_imported_run(llama, tmp_path):
    shutil.copytree(small_llama.directory(), tmp_path / "llama")
    path = tmp_path / "llama" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"suppress_tokens": [5]}))
    assert load_text_model(tmp_path / "llama").decoding["suppressed_ids"] == (5,)
    import_run(tmp_path / "llama", tmp_path / "run")
    assert load_text_model(tmp_path / "run").decoding["suppressed_ids"] == (5,)
