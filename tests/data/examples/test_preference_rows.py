"""Pairs of answers are read in TRL's forms, and become rows in which exactly the answers are predicted."""

import json
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from chats import MARKED, write_tokenizer

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.examples.preference_rows import make_preference_encoder, read_preference
from flaxmill.data.files.rows import Row
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.show_examples import describe_example
from flaxmill.data.tokenization import Tokenizer

USER = {"role": "user", "content": "2 + 2?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("4", "5"))
TEXTS = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}


def read(**values):
    return read_preference(Row(values, "row 3", "a.jsonl"), DataConfig())


@pytest.fixture
def tokenizer(tmp_path):
    return Tokenizer.load(write_tokenizer(tmp_path / "tokenizer"))


def rows_of(examples, tokenizer, length=96, **fields):
    config = DataConfig(sequence_length=length, **fields)
    return make_preference_encoder(config, tokenizer, ())(examples, 0)


def told(row, rows, tokenizer):
    """The text of each answer behind its prompt, with what is predicted between brackets."""
    tokens, length, chosen = (rows[name][row] for name in ("tokens", "length", "chosen_length"))
    is_target = np.unpackbits(rows["is_target"][row])[: len(tokens)].astype(bool)
    texts = []
    for part in (slice(0, chosen), slice(chosen, length)):
        marks = np.flatnonzero(is_target[part])
        pieces = [tokenizer.decode([id_], skip_specials=False) for id_ in tokens[part]]
        assert (np.diff(marks) == 1).all()
        texts.append("".join(pieces[: marks[0]]) + "[" + "".join(pieces[marks[0] : marks[-1] + 1]) + "]")
    return texts


def test_an_explicit_prompt_and_what_both_answers_begin_with_are_one_pair(tokenizer):
    whole = {name: TEXTS["prompt"] + TEXTS[name] for name in ("chosen", "rejected")}
    assert read(**TEXTS).texts == read(**whole).texts == ("The sky is", " blue.", " green.")
    rows = rows_of([read(**TEXTS)], tokenizer).rows
    assert told(0, rows, tokenizer) == ["The sky is[ blue.</s>]", "The sky is[ green.</s>]"]


def test_conversations_are_written_by_the_chat_template(tmp_path):
    explicit = read(prompt=[USER], chosen=[GOOD], rejected=[BAD])
    implicit = read(chosen=[USER, GOOD], rejected=[USER, BAD])
    # As in binarized UltraFeedback: the prompt's text beside whole conversations.
    beside = read(prompt=USER["content"], chosen=[USER, GOOD], rejected=[USER, BAD])
    assert explicit.wanted == implicit.wanted == beside.wanted == [[USER], [GOOD], [BAD]]
    for template in (None, MARKED):
        tokenizer = Tokenizer.load(write_tokenizer(tmp_path / str(bool(template)), template))
        rows = rows_of([explicit], tokenizer, 256).rows
        asked = "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
        assert [text.rstrip("\n") for text in told(0, rows, tokenizer)] == [
            f"{asked}[{answer}<|im_end|>]" for answer in "45"
        ]


def test_only_what_is_said_behind_the_prompt_is_an_answer(tokenizer):
    more = {"role": "user", "content": "Sure?"}
    pair = read(prompt=[USER, BAD, USER], chosen=[GOOD], rejected=[BAD, more, GOOD])
    rows = rows_of([pair], tokenizer, 512).rows
    is_target = np.unpackbits(rows["is_target"][0]).astype(bool)[:512]
    said = tokenizer.decode(rows["tokens"][0][is_target], skip_specials=False)
    assert said == "4<|im_end|>5<|im_end|>4<|im_end|>"


def test_long_prompts_lose_their_beginnings_and_long_answers_their_ends(tokenizer):
    encoded = rows_of([read(**TEXTS), read(**TEXTS | {"prompt": "x" * 40 + "y"})], tokenizer, 40)
    assert encoded.num_cut == 1
    assert told(1, encoded.rows, tokenizer) == [
        f"{'x' * 11}y[ blue.</s>]",
        f"{'x' * 11}y[ green.</s>]",
    ]
    long = rows_of([read(**TEXTS | {"prompt": "ab", "chosen": "c" * 90, "rejected": "de"})], tokenizer, 40)
    assert told(0, long.rows, tokenizer) == [f"b[{'c' * 35}]", "b[de</s>]"]


@pytest.mark.parametrize("markup", [None, False])
def test_a_text_that_spells_a_special_token_is_read_as_asked(markup, tokenizer):
    rows = rows_of([read(prompt="a", chosen="</s>", rejected="b")], tokenizer, 64, markup=markup).rows
    assert rows["chosen_length"][0] == (3 if markup is None else 1 + 4 + 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"chosen": "a", "rejected": "a"},
            "row 3 of a.jsonl: one of 'chosen' and 'rejected' begins with all",
        ),
        (
            {"chosen": [USER, GOOD], "rejected": [USER]},
            "begins with all of the other, .* give it as 'prompt'",
        ),
        ({"chosen": "a", "rejected": [BAD]}, "'chosen' holds 'a', which is not a list of messages"),
        ({"prompt": [USER], "chosen": "a", "rejected": "b"}, "'chosen' holds 'a', which is not a list"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [BAD]}, "'chosen' has no message of the assistant"),
        ({"prompt": [USER], "chosen": [{"role": "a"}], "rejected": [BAD]}, "message 1 of row 3 .*unknown"),
        ({"prompt": "p", "chosen": "\ud800", "rejected": "b"}, "'chosen' has half a character"),
    ],
)
def test_what_is_no_pair_is_one_line(values, message):
    with pytest.raises(ValueError, match=message) as raised:
        read(**values)
    assert "\n" not in str(raised.value)


def test_a_conversation_needs_a_template_and_a_text_does_not(tmp_path):
    path = write_tokenizer(tmp_path)
    text = (path / "tokenizer.json").read_text()
    (path / "tokenizer.json").write_text(text.replace("<|im_", "<|am_"))
    tokenizer = Tokenizer.load(path)
    rows_of([read(**TEXTS)], tokenizer)
    with pytest.raises(
        ValueError, match=r"row 3 of a.jsonl is a conversation, and the tokenizer has no chat"
    ):
        rows_of([read(prompt=[USER], chosen=[GOOD], rejected=[BAD])], tokenizer)


def write_pairs(directory, kind):
    table = pyarrow.table({"prompt": [[USER]] * 30, "chosen": [[GOOD]] * 30, "rejected": [[BAD]] * 30})
    path = directory / f"pairs.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        path.mkdir()
        with pyarrow.ipc.new_stream(path / "data.arrow", table.schema) as writer:
            writer.write_table(table)
        state = {"_data_files": [{"filename": "data.arrow"}], "_split": "train"}
        (path / "state.json").write_text(json.dumps(state))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_a_batch_has_both_answers_apart_and_what_is_kept_beside_them(kind, tmp_path):
    config: Any = DataConfig(
        files=(str(write_pairs(tmp_path, kind)),), tokenizer="bytes", sequence_length=128, valid_fraction=0.1
    )
    dataset = prepare(config, "dpo", cache=tmp_path / "cache", log=lambda line: None)
    assert dataset.tokenizer.chat_template is not None
    batches = Batches(dataset, "train", config=config, objective="dpo", batch_size=4, seed=0)
    assert np.isnan(batches.batch(0)["reference"]).all()
    kept = np.arange(2 * batches.num_rows, dtype=np.float32).reshape(-1, 2)
    dataset.put_beside("train", "reference", kept)
    batch = batches.batch(0)
    np.testing.assert_array_equal(batch["reference"], kept[batch["example_numbers"]])
    for number, said in ((1, "4"), (2, "5")):
        places = batch["documents"][0] == number
        np.testing.assert_array_equal(batch["positions"][0, places], np.arange(places.sum()))
        targets = batch["targets"][0, places & (batch["weights"][0] > 0)]
        assert dataset.tokenizer.decode(targets, skip_specials=False) == f"{said}<|im_end|>"
    assert describe_example(batch, 0, dataset.tokenizer, ())[1:] == [
        r"  prompt: <|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n",
        "  chosen: 4<|im_end|>",
        "  rejected: 5<|im_end|>",
    ]
    part = batches.parts(0, 0, 4, [range(32, 64)])[0]
    for name in ("tokens", "documents", "positions", "targets", "weights"):
        np.testing.assert_array_equal(part[name], batch[name][:, 32:64])
