"""A tokenizer at which the library panics, hangs or fills the memory is refused in one line."""

import json
import time

import pytest
import tokenizers
from small_tokenizers import directory_of, ours
from tokenizers import models

from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.trials import try_reading


def refusal(directory, changes, capfd, kind="bert") -> str:
    """The message that refuses a kind's tokenizer.json after these changes."""
    content = json.loads((directory_of(kind) / "tokenizer.json").read_text()) | changes
    (directory / "tokenizer.json").write_text(json.dumps(content))
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"^data\.tokenizer='.*' cannot be read \(.*\); give ") as caught:
        Tokenizer.load(directory)
    assert time.monotonic() - started < 30
    assert capfd.readouterr() == ("", "")  # not even Rust's "thread panicked at"
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pattern_that_panics_at_plain_text_is_refused(tmp_path, capfd):
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    assert "retry-limit" in refusal(tmp_path, {"pre_tokenizer": split, "normalizer": None}, capfd)


def test_a_table_that_panics_is_refused_and_says_nothing_of_threads(tmp_path, capfd):
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "ALIgAACEAAAA"}
    assert "ALIgAACEAAAA" not in refusal(tmp_path, {"normalizer": normalizer}, capfd)


def test_padding_to_a_huge_length_takes_no_memory(tmp_path):
    content = json.loads((directory_of("bert") / "tokenizer.json").read_text())
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None}
    content["padding"] = padding | {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert Tokenizer.load(tmp_path).encode("fox") == ours("bert").encode("fox")


def test_a_template_without_a_place_for_the_text_is_refused(tmp_path, capfd):
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
    }
    assert "no place for the text" in refusal(tmp_path, {"post_processor": template}, capfd)


@pytest.mark.parametrize(
    ("largest", "reason"),
    [(2**24 + 1, "it has the id 16777217, for which no model has an embedding"), (2**31, "2 GB of memory")],
)
def test_an_id_that_no_model_has_is_refused(largest, reason, tmp_path, capfd):
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "b": largest}, "unk_token": "[UNK]"}
    changes = {"model": model, "added_tokens": [], "post_processor": None}
    assert reason in refusal(tmp_path, changes, capfd)


def test_two_tokens_of_one_id_are_refused(tmp_path, capfd):
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 1}, "unk_token": "[UNK]"}
    said = refusal(tmp_path, {"model": model, "added_tokens": [], "post_processor": None}, capfd)
    assert "have the same id, 1" in said


def test_a_large_honest_tokenizer_is_read(tmp_path):
    pieces = [("<unk>", 0.0), *((f"▁word{number}", -10.0) for number in range(100_000))]
    tokenizers.Tokenizer(models.Unigram(pieces, 0)).save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).vocab_size == 100_001


def test_a_tokenizer_of_a_dataset_is_not_tried(tmp_path, monkeypatch):
    def never(*arguments: object) -> str:
        raise AssertionError

    monkeypatch.setattr("flaxmill.data.tokenization.try_reading", never)
    Tokenizer.load(directory_of("bert"), is_trusted=True)
    with pytest.raises(ValueError, match="AssertionError"):
        Tokenizer.load(directory_of("bert"))


def test_each_common_tokenizer_passes():
    for kind in ("bert", "roberta", "gpt2", "llama", "t5"):
        file = directory_of(kind) / "tokenizer.json"
        assert try_reading("flaxmill.data.tokenizer.trial", file) is None


@pytest.mark.parametrize(
    "data", [b"", b"\n\xff\xff\xff\xff\x0f", b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"]
)
def test_what_is_no_sentencepiece_model_is_refused(data, tmp_path, capfd):
    (tmp_path / "spiece.model").write_bytes(data)
    with pytest.raises(ValueError, match=r"^data\.tokenizer='.*' cannot be read \(.*\); give ") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
