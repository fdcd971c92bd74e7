"""Text that a tokenizer has no pieces for is named: a little in a line, too much as an error."""

import dataclasses

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.kinds import train_byte_level, train_wordpiece

ENGLISH = "The river runs to the sea, and the sea is wide.\n\n"
JAPANESE = "東京は日本の首都です。\n\n"


@pytest.fixture
def config(tmp_path):
    """A function that writes so many texts in each language, for a WordPiece that knows English."""
    inner = train_wordpiece([ENGLISH] * 20, 200)
    Tokenizer(inner).save(tmp_path / "tokenizer.json")
    config = DataConfig(
        files=(str(tmp_path / "text.txt"),),
        documents="blank_lines",
        tokenizer=str(tmp_path / "tokenizer.json"),
        sequence_length=16,
    )

    def write(english: int, japanese: int) -> DataConfig:
        (tmp_path / "text.txt").write_text(ENGLISH * english + JAPANESE * japanese, encoding="utf-8")
        return config

    return write


def prepared(config, tmp_path, objective="mlm"):
    lines = []
    return prepare(config, objective, cache=tmp_path / "cache", log=lines.append), lines


def test_text_that_is_known_is_not_remarked_on(config, tmp_path):
    dataset, lines = prepared(config(200, 0), tmp_path)
    assert not any("no piece" in line for line in lines)
    assert dataset.statistics["train"]["num_unknown"] == 0


@pytest.mark.parametrize("objective", ["mlm", "mlm_nsp"])
def test_a_share_of_unknown_pieces_is_a_line_with_an_example(config, tmp_path, objective):
    dataset, lines = prepared(config(200, 20), tmp_path, objective)
    train = dataset.statistics["train"]
    share = train["num_unknown"] / train["num_tokens"]
    line = next(line for line in lines if "train: the tokenizer has no piece for" in line)
    assert f"no piece for {share:.1%} of the text's, such as '東', " in line
    assert "flaxmill tokenizer train" in line


def test_more_than_half_unknown_is_refused_in_one_line(config, tmp_path):
    with pytest.raises(ValueError, match=r"no piece for \d\d\.\d% of the text's, such as '東'") as caught:
        prepared(config(4, 200), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "data").glob("packed-*"))


def test_most_of_the_first_documents_unknown_is_said_before_all_are_read(config, tmp_path):
    lines = []
    with pytest.raises(ValueError, match="no piece for"):
        prepare(config(0, 200), "mlm", cache=tmp_path / "cache", log=lines.append)
    early = next(number for number, line in enumerate(lines) if "of the first" in line)
    assert "pieces are unknown to the tokenizer" in lines[early]
    assert lines[early + 1].startswith("preparing ")


def test_labelled_examples_are_judged_as_text_is(config, tmp_path):
    data = dataclasses.replace(config(1, 0), files=(str(tmp_path / "rows.csv"),), labels=("a", "b"))
    rows = "".join(f"{JAPANESE.strip()},{'ab'[number % 2]}\n" for number in range(40))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows, encoding="utf-8")
    with pytest.raises(ValueError, match=r"no piece for \d\d\.\d% of the text's, such as '東'"):
        prepared(data, tmp_path, "classification")


def test_an_end_token_that_stands_for_unknown_ones_is_not_unknown_text():
    inner = train_byte_level([ENGLISH], 300)
    assert Tokenizer(inner).unknown_id is None
