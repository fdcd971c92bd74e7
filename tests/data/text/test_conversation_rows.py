"""Conversations are read from every kind of nested table, and bad ones are named or skipped and counted."""

import bz2
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from chats import CONVERSATION, INSTRUCTIONS, WITHOUT_SYSTEM, write_jsonl, write_tokenizer

from flaxmill.data.config import DataConfig
from flaxmill.data.conversations.chatml import ChatML
from flaxmill.data.files.own_rows import define_text
from flaxmill.data.text.corpora import text_sources

RENDERED = ChatML().render(CONVERSATION)
SHARED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]


def read(*specs, log=print, **fields):
    config = DataConfig(files=tuple(map(str, specs)), **fields)
    sources = text_sources(config, config.files, "data.files", log, are_conversations=True)
    return list(sources.read()), sources


def assert_reads(spec, **fields):
    (document,), _ = read(spec, **fields)
    assert (document.text, document.targets) == RENDERED
    assert "row 1 of " in document.place or "item 0 of " in document.place


def write_saved(directory, table):
    """As the library datasets saves a dataset."""
    directory.mkdir()
    with pyarrow.ipc.new_stream(directory / "data.arrow", table.schema) as writer:
        writer.write_table(table)
    state = {"_data_files": [{"filename": "data.arrow"}], "_split": "train"}
    (directory / "state.json").write_text(json.dumps(state))
    return directory


def test_every_kind_of_nested_table_gives_the_same_conversation(tmp_path):
    plain = write_jsonl(tmp_path / "a.jsonl", CONVERSATION)
    assert_reads(plain)
    for suffix, compress in ((".gz", gzip.compress), (".bz2", bz2.compress)):
        packed = plain.with_suffix(f".jsonl{suffix}")
        packed.write_bytes(compress(plain.read_bytes()))
        assert_reads(packed)
    (tmp_path / "a.json").write_text(json.dumps([{"id": 1, "messages": CONVERSATION}]))
    assert_reads(tmp_path / "a.json")
    table = pyarrow.table({"id": [1], "messages": [CONVERSATION]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert_reads(tmp_path / "a.parquet")
    assert_reads(write_saved(tmp_path / "saved", table))
    assert_reads(define_text("chats", [CONVERSATION], version="1"))
    assert_reads(define_text("rows", [{"messages": CONVERSATION}], version="1"))


def test_a_tfds_dataset_of_messages_is_read(tmp_path):
    import tensorflow_datasets as tfds

    message = {"role": tfds.features.Text(), "content": tfds.features.Text()}

    class Chats(tfds.core.GeneratorBasedBuilder):
        __module__ = "__main__"  # otherwise TFDS looks for its source, with a library it does not require
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"messages": tfds.features.Sequence(message)})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"messages": CONVERSATION}

    Chats(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    assert_reads(f"tfds:{tmp_path / 'chats' / '1.0.0'}")


def test_another_column_is_read_by_its_name(tmp_path):
    assert_reads(write_jsonl(tmp_path / "a.jsonl", CONVERSATION, column="chat"), text_column="chat")
    table = pyarrow.table({"chat": [CONVERSATION], "messages": [SHARED]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert_reads(tmp_path / "a.parquet", text_column="chat")


def test_sharegpt_is_found_in_its_own_column(tmp_path):
    (document,), _ = read(write_jsonl(tmp_path / "a.jsonl", SHARED, column="conversations"))
    assert document.text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    pyarrow.parquet.write_table(pyarrow.table({"conversations": [SHARED]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0][0].text == document.text


def test_alpacas_columns_are_read_together(tmp_path):
    row = {"instruction": "Add.", "input": "2 + 2", "output": "4", "text": "Below is ..."}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    table = pyarrow.table({name: [value] for name, value in row.items()})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for source in (tmp_path / "a.jsonl", tmp_path / "a.parquet", write_saved(tmp_path / "saved", table)):
        (document,), _ = read(source)
        assert document.text == (
            "<|im_start|>user\nAdd.\n2 + 2<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
        )


def test_the_template_of_the_named_tokenizer_writes_the_text(tmp_path):
    tokenizer = write_tokenizer(tmp_path / "tokenizer", INSTRUCTIONS)
    (document,), _ = read(write_jsonl(tmp_path / "a.jsonl", WITHOUT_SYSTEM), tokenizer=str(tokenizer))
    assert document.text.startswith("<s>[INST] What is 2 + 2? [/INST] 4 </s>[INST]")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([{"role": "user", "content": "x"}], "row 2 of .*a.jsonl has no message of the assistant"),
        (
            [{"role": "bot", "content": "x"}],
            "message 1 of row 2 of .*a.jsonl: the role 'bot' is unknown; use one",
        ),
        (
            CONVERSATION,
            r"row 2 of .*a.jsonl: the chat template refuses it \(Conversation roles must alternate",
        ),
    ],
)
def test_a_bad_conversation_is_named_or_skipped_and_counted(bad, message, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", WITHOUT_SYSTEM, bad, WITHOUT_SYSTEM)
    fields = {"tokenizer": str(write_tokenizer(tmp_path / "tokenizer", INSTRUCTIONS))}
    with pytest.raises(ValueError, match=message) as raised:
        read(path, **fields)
    assert "\n" not in str(raised.value)
    documents, sources = read(path, bad_rows="skip", **fields)
    assert [document.place.split()[1] for document in documents] == ["1", "3"]
    assert sources.skipped is not None
    assert sources.skipped.describe().startswith("1 bad row, the first: ")


def test_a_conversation_of_which_the_template_writes_no_answer_is_refused(tmp_path):
    tokenizer = write_tokenizer(tmp_path / "tokenizer", "{{ messages[0].content }}")
    path = write_jsonl(tmp_path / "a.jsonl", CONVERSATION)
    with pytest.raises(ValueError, match=r"row 1 of .*: nothing that the assistant says is in the text"):
        read(path, tokenizer=str(tokenizer))


def test_a_message_that_spells_a_special_token_is_refused_where_asked(tmp_path):
    spelled = [*CONVERSATION, {"role": "user", "content": "Say <|im_end|>"}]
    path = write_jsonl(tmp_path / "a.jsonl", CONVERSATION, spelled)
    assert len(read(path)[0]) == 2
    with pytest.raises(
        ValueError, match=r"message 6 of row 2 of .* spells the special token '<\|im_end\|>'; delete"
    ):
        read(path, markup=False)
    assert len(read(path, markup=False, bad_rows="skip")[0]) == 1


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.bin", "a.npy"])
def test_files_without_lists_of_messages_are_refused_by_name(name, tmp_path):
    (tmp_path / name).write_text("messages\nx\n")
    with pytest.raises(
        ValueError, match=rf"data.files='.*{name}' holds no lists of messages, .* name .jsonl"
    ):
        read(tmp_path / name)


def test_the_embedded_corpus_of_text_has_no_conversations():
    with pytest.raises(ValueError, match=r"data.files=embedded:all holds no lists of messages"):
        read("embedded:all")
