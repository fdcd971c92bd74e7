"""If a tokenizer raises or its Rust code panics, one line names the text, its place and the fix."""

import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.tokenizer.failures import encode_texts

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>"]


def write_unigram(path):
    """A tokenizer of a few letters, without a token for unknown text."""
    pieces = [*SPECIALS, *"abcdefghij \n"]
    tokenizer = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=None))
    tokenizer.add_special_tokens(SPECIALS)
    path.write_text(tokenizer.to_str())
    return str(path)


def write_word_level(path):
    vocabulary = {piece: number for number, piece in enumerate([*SPECIALS, "ab", "cd", "ef"])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[unknown]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIALS)
    path.write_text(tokenizer.to_str())
    return str(path)


ROWS: dict[str, list[dict]] = {
    "classification": [
        {"text": "ab", "label": "x"},
        {"text": "cd", "label": "y"},
        {"text": "zz", "label": "x"},
    ],
    "token_classification": [
        {"text": ["ab", "cd"], "label": ["x", "y"]},
        {"text": ["ab"], "label": ["x"]},
        {"text": ["cd", "zz"], "label": ["x", "x"]},
    ],
    "question_answering": [
        {"question": "ab", "context": "cd", "answers": []},
        {"question": "cd", "context": "ab", "answers": []},
        {"question": "ab", "context": "zz", "answers": []},
    ],
    "seq2seq": [
        {"text": "ab", "target": "cd"},
        {"text": "cd", "target": "ab"},
        {"text": "ab", "target": "zz"},
    ],
    "causal": [{"text": "ab"}, {"text": "cd"}, {"text": "zz"}],
    "mlm_nsp": [{"text": "ab"}, {"text": "cd"}, {"text": "zz"}, {"text": "ef"}],
}


@pytest.mark.parametrize("objective", ROWS)
def test_a_text_that_a_tokenizer_fails_at_is_named_with_its_row_and_a_fix_that_works(tmp_path, objective):
    data, tokenizer = tmp_path / "a.jsonl", tmp_path / "t.json"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[objective]))
    config = DataConfig(
        files=(str(data),),
        tokenizer=write_unigram(tokenizer),
        sequence_length=16,
        stride=2,
        target_length=4,
    )
    message = rf"^row 3 of {data}: the tokenizer cannot encode '.*zz.*' \(.*is missing\); set unk_id in token"
    with pytest.raises(ValueError, match=message) as caught:
        prepare(config, objective, cache=tmp_path / "cache", log=lambda line: None)
    assert "\n" not in str(caught.value)
    content = json.loads(tokenizer.read_text())
    content["model"]["unk_id"] = SPECIALS.index("[UNK]")
    tokenizer.write_text(json.dumps(content))
    assert prepare(config, objective, cache=tmp_path / "cache", log=lambda line: None)


def test_a_text_of_a_file_is_named_with_its_byte(tmp_path):
    (tmp_path / "a.txt").write_text("ab\n\ncd\n\nzz\n")
    config = DataConfig(
        files=(str(tmp_path / "a.txt"),),
        documents="blank_lines",
        tokenizer=write_unigram(tmp_path / "t.json"),
    )
    with pytest.raises(
        ValueError, match=r"^the text at byte 8 of .*a\.txt: the tokenizer cannot encode 'zz\\n'"
    ):
        prepare(config, "causal", cache=tmp_path / "cache", log=lambda line: None)


def test_a_vocabulary_without_its_unknown_word_is_told_so(tmp_path):
    (tmp_path / "a.txt").write_text("ab cd\n" * 10 + "zz\n")
    config = DataConfig(files=(str(tmp_path / "a.txt"),), tokenizer=write_word_level(tmp_path / "t.json"))
    with pytest.raises(
        ValueError, match=r"Missing \[UNK\] token from the vocabulary\); add the unk_token of tokeni"
    ):
        prepare(config, "causal", cache=tmp_path / "cache", log=lambda line: None)


class PanicException(BaseException):
    """The exception that a Rust panic becomes."""


@pytest.mark.parametrize(
    "error", [PanicException("index out of bounds"), Exception("no\nsuch piece"), Exception()]
)
def test_panics_are_named_as_errors_are(error):
    def encode(texts):
        if "bad" in texts:
            raise error
        return texts

    assert encode_texts(encode, ["a", "b"], str) == ["a", "b"]
    with pytest.raises(
        ValueError, match=r"^1: the tokenizer cannot encode 'bad' \(.+\); correct it, or delete"
    ) as e:
        encode_texts(encode, ["a", "bad", "bad"], str)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("ours")])
def test_other_errors_are_not_taken_for_the_tokenizer_s(error):
    def encode(texts):
        raise error

    with pytest.raises(type(error)):
        encode_texts(encode, ["a"], str)
