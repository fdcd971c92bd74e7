"""Special tokens that a text spells are read as such in examples, as letters in text to pretrain on."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.train.inference.text_model import load_text_model
from flaxmill.train.loop import train

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sleeps", "e", "1", "/", "[", "]"]
MARKED = "the [E1] cat [/E1] sleeps"
ROWS = [
    {
        "text": MARKED,
        "label": "ab"[number % 2],
        "target": f"cat [E1] {number}",
        "question": "the [E1]",
        "context": MARKED,
    }
    | {"words": MARKED.split(), "tags": ["O", "B", "I", "O", "O"]}
    | {"answers": {"text": ["cat"], "answer_start": [MARKED.index("cat")]}}
    for number in range(4)
]
SETTINGS = {
    "classification": {},
    "token_classification": {"text_column": "words", "label_column": "tags"},
    "question_answering": {"stride": 4},
    "seq2seq": {"target_length": 8},
}


@pytest.fixture
def inner(tmp_path: Path) -> Tokenizer:
    """A small BERT's tokenizer with added marks of entities, as relation extraction uses them."""
    made = Tokenizer(models.WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    specials = ("[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]", "[E1]", "[/E1]")
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in specials])
    made.save(str(tmp_path / "t.json"))
    return made


def read_first(tmp_path: Path, objective, **settings) -> dict[str, np.ndarray]:
    fields = {"files": (write_rows(tmp_path),), "tokenizer": str(tmp_path / "t.json"), "sequence_length": 24}
    dataset = prepare(DataConfig(**fields | settings), objective, cache=tmp_path, log=lambda line: None)
    row = dataset.read("train", np.arange(1))
    return {name: values[0] for name, values in row.items()}


def write_rows(tmp_path: Path) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


def tokens(inner: Tokenizer, row: dict[str, np.ndarray]) -> list[str | None]:
    return [inner.id_to_token(int(number)) for number in row["tokens"] if number != 0]


@pytest.mark.parametrize("objective", SETTINGS)
def test_examples_of_every_task_hold_the_special_tokens_that_they_spell(objective, inner, tmp_path):
    row = read_first(tmp_path, objective, **SETTINGS[objective])
    question = ["the", "[E1]", "[SEP]"] if objective == "question_answering" else []
    assert tokens(inner, row)[: 7 + len(question)] == ["[CLS]", *question, *MARKED.split(), "[SEP]"]
    if objective == "seq2seq":
        assert tokens(inner, row)[7:9] == ["cat", "[E1]"]


@pytest.mark.parametrize("objective", SETTINGS)
def test_without_markup_they_are_letters(objective, inner, tmp_path):
    row = read_first(tmp_path, objective, markup=False, **SETTINGS[objective])
    read = tokens(inner, row)
    assert not {"[E1]", "[/E1]"} & set(read)
    assert "[" in read


def test_text_to_pretrain_on_holds_letters_unless_markup_is_on(inner, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text(f"{MARKED}\n\n" * 20)
    of_text = {"files": (str(texts),), "documents": "blank_lines"}
    assert "[E1]" not in tokens(inner, read_first(tmp_path, "mlm", **of_text))
    assert "[E1]" in tokens(inner, read_first(tmp_path, "mlm", markup=True, **of_text))


@pytest.mark.slow
@pytest.mark.parametrize(("markup", "is_read"), [(None, True), (False, False)])
def test_a_prompt_is_read_as_the_sources_that_a_run_learned_from(
    markup, is_read, inner, make_experiment, tmp_path
):
    data = DataConfig(
        files=(write_rows(tmp_path),),
        tokenizer=str(tmp_path / "t.json"),
        sequence_length=24,
        target_length=8,
        markup=markup,
        valid_files=(write_rows(tmp_path),),
    )
    run = tmp_path / "run"
    train(make_experiment("seq2seq", steps=1, batch_size=2, data=data))
    for asked, expected in ((True, is_read), (False, False)):
        ids = load_text_model(run, markup=asked).read(MARKED)
        assert (inner.token_to_id("[E1]") in ids) == expected
