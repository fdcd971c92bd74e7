"""Every kind of source is prepared, and its rows are those of the same text in a plain table."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tokenizers import directory_of, draw_texts, ours
from token_writers import save_splits, save_to_disk, write_indexed

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.framing import document_frame
from flaxmill.data.mixture.preparation import prepare_mixture
from flaxmill.data.preparation.cache import prepare

TEXTS = draw_texts(3, num=60)
HELD_OUT = draw_texts(4, num=8)


def write_jsonl(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def rows_of(dataset) -> dict[str, np.ndarray]:
    """The stored rows of both splits."""
    return {
        f"{split} {field}": values
        for split in ("train", "valid")
        for field, values in dataset.read(split, np.arange(dataset.statistics[split]["num_rows"])).items()
    }


def prepared(tmp_path, files, objective="causal", valid_files=(), lines=None, **settings: Any):
    settings = {"tokenizer": str(directory_of("gpt2") / "tokenizer.json"), "sequence_length": 24} | settings
    files = (files,) if isinstance(files, str) else tuple(files)
    config = DataConfig(files=files, valid_files=valid_files, **settings)
    log = (lambda line: None) if lines is None else lines.append
    return prepare(config, objective, cache=tmp_path / "cache", log=log)


def assert_same_rows(one, other):
    found, wanted = rows_of(one), rows_of(other)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.array_equal(found[name], values), name
    for split in ("train", "valid"):
        assert one.statistics[split]["num_documents"] == other.statistics[split]["num_documents"]


def folder(tmp_path):
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    (tmp_path / "texts" / ".hidden.jsonl").write_text("{")
    (tmp_path / "texts" / "image.png").write_bytes(b"\x89PNG")
    write_jsonl(tmp_path / "texts" / "b.jsonl", TEXTS[40:])
    (tmp_path / "texts" / "a.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in TEXTS[:20]))
    write_jsonl(tmp_path / "texts" / "aa.jsonl", TEXTS[20:40])
    return str(tmp_path / "texts")


def arrow_file(tmp_path):
    import pyarrow

    table = pyarrow.Table.from_pylist([{"text": text} for text in TEXTS])
    with (
        pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file,
        pyarrow.ipc.new_file(file, table.schema) as to,
    ):
        to.write_table(table)
    return str(tmp_path / "a.arrow")


@functools.cache
def lines_builder() -> Any:
    """A TFDS builder of TEXTS; TFDS takes a name once."""
    import tensorflow_datasets as tfds

    class Lines(tfds.core.GeneratorBasedBuilder):
        __module__ = "__main__"  # otherwise TFDS looks for its source, with a library it does not require
        VERSION = tfds.core.Version("2.1.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": enumerate({"text": text} for text in TEXTS)}

        def _generate_examples(self):
            raise NotImplementedError

    return Lines


def tfds_directory(tmp_path):
    lines_builder()(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare()
    return f"tfds:{tmp_path}/tfds/lines/2.1.0:train"


def memory_folder(tmp_path):
    import fsspec

    store = fsspec.filesystem("memory")
    write_jsonl(tmp_path / "remote.jsonl", TEXTS)
    store.pipe("/kinds/b/a.jsonl", (tmp_path / "remote.jsonl").read_bytes())
    return "memory://kinds/b"


KINDS = {
    "directory": folder,
    "arrow": arrow_file,
    "saved dataset": lambda at: str(save_to_disk(at / "saved", [{"n": 1, "text": text} for text in TEXTS])),
    "saved splits": lambda at: f"{save_splits(at / 'saved', {'x': [{'text': text} for text in TEXTS]})}:x",
    "tfds": tfds_directory,
    "remote": memory_folder,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", ["causal", "mlm_nsp"])
def test_a_kind_of_text_gives_the_rows_of_its_text(tmp_path, kind, objective):
    tokenizer = str(directory_of("bert" if objective == "mlm_nsp" else "gpt2") / "tokenizer.json")
    wanted = prepared(tmp_path, write_jsonl(tmp_path / "all.jsonl", TEXTS), objective, tokenizer=tokenizer)
    assert_same_rows(prepared(tmp_path, KINDS[kind](tmp_path), objective, tokenizer=tokenizer), wanted)


def test_a_feature_that_a_tfds_dataset_lacks_gets_a_guess(tmp_path):
    message = (
        r"^data\.text_column='txt' is not a column of row 1 of tfds:.*; it has text; did you mean text\?$"
    )
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, tfds_directory(tmp_path), text_column="txt")


def test_a_tfds_dataset_that_was_prepared_again_is_read_again(tmp_path):
    spec = tfds_directory(tmp_path)
    before = prepared(tmp_path, spec)
    os.utime(tmp_path / "tfds" / "lines" / "2.1.0" / "dataset_info.json", ns=(1, 1))
    assert prepared(tmp_path, spec).directory != before.directory
    assert prepared(tmp_path, spec).fingerprint == before.fingerprint


@pytest.mark.parametrize("name", ["a.bin", "a.npy", "a.txt", "a.jsonl", "a.parquet"])
def test_an_empty_source_is_named(tmp_path, name):
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, np.zeros(0, np.int32))
    elif name == "a.parquet":
        parquet_rows(path, [])
    else:
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=rf"^data\.files={path} holds no text \(0 documents\); give files that"
    ):
        prepared(tmp_path, str(path))


def id_lists(kind: str, framed: bool) -> list[list[int]]:
    """The ids of each text, with what is put before and after it if `framed`."""
    tokenizer = ours(kind)
    frame = document_frame(tokenizer, "template")
    encoded = tokenizer.encode_batch(TEXTS)
    return [[*frame.before, *ids, *frame.after] if framed else ids for ids in encoded]


def parquet_rows(path, rows):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": rows}), path, row_group_size=7)
    return str(path)


def raw_file(at, rows, dtype="uint16"):
    np.concatenate(rows).astype(dtype).tofile(at / "a.bin")
    return str(at / "a.bin")


def array_file(at, rows):
    np.save(at / "a.npy", np.concatenate(rows))
    return str(at / "a.npy")


def saved_rows(at, rows):
    return str(save_to_disk(at / "saved", [{"text": row} for row in rows]))


def rows_of_json(at, rows):
    return write_jsonl(at / "ids.jsonl", rows)


# Whether documents can be told apart without the tokens between them.
TOKENS = {
    "raw": (raw_file, False),
    "array": (array_file, False),
    "indexed": (lambda at, rows: str(write_indexed(at / "a.bin", [[row] for row in rows])), True),
    "parquet": (lambda at, rows: parquet_rows(at / "a.parquet", rows), True),
    "saved dataset": (saved_rows, True),
    "jsonl": (rows_of_json, True),
}


@pytest.mark.parametrize("tokenizer", ["gpt2", "bert", "roberta", "llama", "t5"])
@pytest.mark.parametrize(
    ("kind", "framed"),
    [(kind, framed) for kind, (_, has_borders) in TOKENS.items() for framed in {True, not has_borders}],
)
def test_ids_give_the_rows_of_their_text_and_are_not_framed_twice(tmp_path, kind, tokenizer, framed):
    write, _ = TOKENS[kind]
    path = str(directory_of(tokenizer) / "tokenizer.json")
    text = prepared(tmp_path, write_jsonl(tmp_path / "all.jsonl", TEXTS), tokenizer=path)
    ids = prepared(tmp_path, write(tmp_path, id_lists(tokenizer, framed)), tokenizer=path)
    assert_same_rows(ids, text)


def test_ids_and_text_are_read_side_by_side_in_order(tmp_path):
    half = raw_file(tmp_path, id_lists("gpt2", framed=True)[30:])
    both = prepared(tmp_path, [write_jsonl(tmp_path / "half.jsonl", TEXTS[:30]), half])
    assert_same_rows(both, prepared(tmp_path, write_jsonl(tmp_path / "all.jsonl", TEXTS)))


def test_the_only_document_of_ids_gives_its_tail(tmp_path):
    np.arange(50, 150, dtype="uint16").tofile(tmp_path / "a.bin")
    statistics = prepared(tmp_path, str(tmp_path / "a.bin"), valid_fraction=0.1).statistics
    # Each part ends with an end token.
    assert [statistics[split]["num_tokens"] for split in ("train", "valid")] == [91, 11]


def test_the_bytes_of_ids_are_those_of_their_text(tmp_path):
    ids = prepared(tmp_path, raw_file(tmp_path, id_lists("gpt2", framed=True)))
    text = prepared(tmp_path, write_jsonl(tmp_path / "all.jsonl", TEXTS))
    assert ids.statistics["valid"]["num_bytes"] == text.statistics["valid"]["num_bytes"] > 0


def test_the_type_of_raw_ids_is_part_of_the_dataset(tmp_path):
    rows = id_lists("gpt2", framed=True)
    wide = prepared(tmp_path, raw_file(tmp_path, rows, "uint32"), token_dtype="uint32")
    assert_same_rows(wide, prepared(tmp_path, write_jsonl(tmp_path / "all.jsonl", TEXTS)))
    with pytest.raises(
        ValueError, match=r"has the id \d+, and data\.tokenizer=.* another data\.token_dtype$"
    ):
        prepared(tmp_path, raw_file(tmp_path, [[60_000, 1, 2]]))


@pytest.mark.parametrize("kind", TOKENS)
def test_ids_need_the_tokenizer_that_they_are_from(tmp_path, kind):
    source = TOKENS[kind][0](tmp_path, id_lists("gpt2", framed=True))
    message = r"holds token ids, and data\.tokenizer=bpe is made here; give the path of the tokenizer"
    with pytest.raises(ValueError, match=message) as caught:
        prepared(tmp_path, source, tokenizer="bpe")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", TOKENS)
def test_sentence_pairs_are_not_made_of_ids(tmp_path, kind):
    source = TOKENS[kind][0](tmp_path, id_lists("bert", framed=True))
    with pytest.raises(ValueError, match=r"holds token ids, and sentence pairs, .* are made of text; give"):
        prepared(tmp_path, source, "mlm_nsp", tokenizer=str(directory_of("bert") / "tokenizer.json"))


@pytest.mark.slow
def test_a_mixture_takes_every_kind(tmp_path):
    tokenizer = str(directory_of("gpt2") / "tokenizer.json")
    ids = raw_file(tmp_path, id_lists("gpt2", framed=True))
    saved = save_splits(tmp_path / "saved", {"x": [{"text": text} for text in TEXTS]})
    sources = (
        f"ids=1:{ids}",
        f"saved=2:{saved}:x",
        "code:embedded:code",
        f"remote:{memory_folder(tmp_path)}",
    )
    config = DataConfig(sources=sources, tokenizer=tokenizer, sequence_length=24)
    mixed = prepare_mixture(config, "causal", cache=tmp_path / "cache", log=lambda line: None)
    for name in ("ids", "saved", "remote"):
        assert_same_rows(mixed.sources[name], mixed.sources["saved"])
    with pytest.raises(
        ValueError, match=r"^source ids: .* holds token ids, and data\.tokenizer=bpe is made here"
    ):
        prepare_mixture(
            DataConfig(sources=sources, tokenizer="bpe"),
            "causal",
            cache=tmp_path / "cache",
            log=lambda line: None,
        )


@pytest.mark.slow
def test_a_part_of_the_embedded_corpus_is_a_source_among_others(tmp_path):
    valid = (write_jsonl(tmp_path / "valid.jsonl", HELD_OUT),)
    texts = write_jsonl(tmp_path / "all.jsonl", TEXTS)
    alone = prepared(tmp_path, "embedded:prose", valid_files=valid).statistics["train"]
    both = prepared(tmp_path, [texts, "embedded:prose"], valid_files=valid).statistics["train"]
    assert both["num_documents"] == alone["num_documents"] + len(TEXTS)
    embedded = prepared(tmp_path, (), embedded="prose").statistics
    assert alone["num_documents"] == sum(embedded[split]["num_documents"] for split in ("train", "valid"))


def test_skipped_rows_are_counted_in_the_log_and_in_the_statistics(tmp_path):
    train, valid = tmp_path / "train.jsonl", tmp_path / "valid.jsonl"
    write_jsonl(train, TEXTS)
    train.write_bytes(train.read_bytes() + b'{"text": 5}\n{"txt": "a"}\n{"text"\n')
    write_jsonl(valid, HELD_OUT)
    valid.write_bytes(b"\xff\n" + valid.read_bytes())
    lines = []
    found = prepared(tmp_path, str(train), valid_files=(str(valid),), bad_rows="skip", lines=lines)
    assert [found.statistics[split]["num_bad_rows"] for split in ("train", "valid")] == [3, 1]
    said = [line for line in lines if line.startswith("skipped")]
    assert [line.partition(" of ")[0] for line in said] == [
        "skipped 3 bad rows, the first: row 61",
        "skipped 1 bad row, the first: line 1",
    ]
    write_jsonl(train, TEXTS)
    write_jsonl(valid, HELD_OUT)
    assert_same_rows(found, prepared(tmp_path, str(train), valid_files=(str(valid),)))


def test_labelled_examples_are_not_skipped(tmp_path):
    with pytest.raises(
        ValueError, match=r"^data\.bad_rows=skip skips rows of text, and objective=classificat"
    ):
        prepared(tmp_path, "rows.jsonl", "classification", bad_rows="skip")
