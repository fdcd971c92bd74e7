"""What is fuzzed: for each kind of file, valid files, how they are changed, what reads them, and by which
commands."""

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_cases import Target
from fuzz_changes import (
    CHANGE_TEXT,
    DATASET_NAMES,
    change_chats,
    change_config,
    change_experiment,
    change_modules,
    change_reported,
    change_row,
    change_rows,
    change_settings,
    change_tokenizer,
)
from fuzz_mutations import Change, change_bytes, change_header, change_json
from fuzz_reading import (
    read_chats,
    read_dataset,
    read_ids,
    read_model,
    read_report,
    read_rows,
    read_run,
    read_sentence_modules_and_embed,
    read_table,
    read_text_model,
    read_tokenizer,
)
from fuzz_runs import change_manifest, write_dataset, write_reported, write_run
from fuzz_seeds import (
    PACKERS,
    TABLES,
    TEXT,
    parquet_tables,
    write_chats,
    write_models,
    write_sentence_modules,
    write_sentence_pieces,
    write_sharded,
    write_tokenizers,
    write_vocabularies,
)
from token_writers import save_to_disk, write_indexed

TAG = (
    "flaxmill data card tag_tokens --data.files {inside}/data.conll --data.text-column words "
    "--data.label-column tags --data.tokenizer {inside}/tokenizer.json --data.sequence-length 24"
)
ANSWER = (
    "flaxmill data card question_answering --data.files {inside}/data.json* --data.stride 4 "
    "--data.tokenizer {inside}/tokenizer.json --data.sequence-length 24"
)
CHAT = (
    "flaxmill data card chat --data.files {inside}/chats.jsonl --data.tokenizer {inside} "
    "--data.sequence-length 24"
)
IDS = np.arange(60) % 29 + 5
IDS_CARD = (
    "flaxmill data card gpt_tiny --data.files {inside}/data.* --data.tokenizer {inside}/tokenizer.json "
    "--data.sequence-length 24"
)
CLASSIFY = (
    "flaxmill data card classify --data.files {inside}/data.* --data.tokenizer {inside}/tokenizer.json "
    "--data.sequence-length 24"
)


@functools.cache
def _models(directory: Path) -> list[Path]:
    return write_models(directory / "models")


@functools.cache
def _run(directory: Path) -> list[Path]:
    return write_run(directory / "runs")


@functools.cache
def _reported(directory: Path) -> list[Path]:
    return write_reported(_run(directory), directory / "reported")


@functools.cache
def _dataset(directory: Path) -> list[Path]:
    return write_dataset(directory / "inside")


def _tables(kind: str, suffix: str, pack: Callable[[bytes], bytes] | None = None) -> Callable:
    """Makes a directory of each table of a kind, with a tokenizer."""

    def make(directory: Path) -> list[Path]:
        from small_tokenizers import directory_of

        made = []
        for number, data in enumerate(parquet_tables() if kind == "parquet" else TABLES[kind]):
            target = shutil.copytree(directory_of("bert"), directory / f"{kind}-{suffix}{number}")
            (target / f"data.{suffix}").write_bytes(pack(data) if pack else data)
            made.append(target)
        return made

    return make


def _table(
    kind: str,
    suffix: str,
    objectives: Sequence[str],
    changes: Sequence[Change],
    command: str,
    pack: Any = None,
) -> Target:
    read = functools.partial(read_table, objectives=objectives)
    return Target(_tables(kind, suffix, pack), [f"data.{suffix}"], changes, read, [command])


_TEXT_COMMANDS = [
    "flaxmill generate {inside} fox --max-new-tokens 2",
    "flaxmill import {inside} {inside}/run",
    "flaxmill eval {inside} --data {inside}/../text.txt",
]
_RUN_COMMANDS = [
    "flaxmill generate {inside}/run fox --max-new-tokens 2",
    "flaxmill checkpoints {inside}/run",
    "flaxmill runs {inside}",
    "flaxmill report {inside}/run --output {inside}/report.html",
    "flaxmill export {inside}/run {inside}/exported",
    "flaxmill train --run-dir {inside}/run --steps 3 --extend",
    "flaxmill eval {inside}/run",
    "flaxmill data show --run-dir {inside}/run --step 1",
]
_CARDS = [
    f"flaxmill data card {config} --data.files {{inside}}/{file} --data.tokenizer bytes "
    "--data.sequence-length 24"
    for config, file in (("gpt_tiny", "text.txt"), ("classify", "rows.jsonl"))
]
_PREPARE = "flaxmill data prepare gpt_tiny --data.files {inside}/text.txt --data.documents blank_lines"


def _json(*names: str) -> tuple[Change, ...]:
    return change_json(names), change_json(names), change_bytes


def _ids(name: str, write: Callable[[Path], Any], files: Sequence[str], *changes: Change) -> Target:
    """A directory of token ids or of a saved dataset, with a tokenizer."""

    def make(directory: Path) -> list[Path]:
        from small_tokenizers import directory_of

        target = shutil.copytree(directory_of("bert"), directory / f"ids-{name}")
        write(target)
        return [target]

    return Target(make, files, (*changes, change_bytes), read_ids, [IDS_CARD])


TARGETS: dict[str, Target] = {
    "config.json": Target(
        _models, ["config.json"], (change_config,) * 4 + (change_bytes,), read_model, _TEXT_COMMANDS
    ),
    "settings": Target(
        _models,
        ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"],
        (change_settings,) * 4 + (change_bytes,),
        read_text_model,
        _TEXT_COMMANDS,
    ),
    "tokenizer.json": Target(
        write_tokenizers,
        ["tokenizer.json"],
        (change_tokenizer,) * 4 + (change_bytes,),
        read_tokenizer,
        [f"{_PREPARE} --data.tokenizer {{inside}}"],
    ),
    "vocabulary": Target(
        write_vocabularies,
        ["vocab.txt", "vocab.json", "merges.txt"],
        (*CHANGE_TEXT, change_json(), change_bytes),
        read_tokenizer,
        [f"{_PREPARE} --data.tokenizer {{inside}}"],
    ),
    "sentencepiece": Target(
        write_sentence_pieces,
        ["tokenizer.model"],
        (change_bytes,),
        read_tokenizer,
        [f"{_PREPARE} --data.tokenizer {{inside}}"],
    ),
    "safetensors": Target(
        _models,
        ["model.safetensors"],
        (
            *(change_header(change) for change in _json("dtype", "shape", "data_offsets", "__metadata__")),
            change_bytes,
        ),
        read_model,
        _TEXT_COMMANDS,
    ),
    "index": Target(
        lambda directory: write_sharded(_models(directory)[:3], directory / "sharded"),
        ["model.safetensors.index.json"],
        _json("weight_map", "metadata", "total_size", "wte.weight"),
        read_model,
        _TEXT_COMMANDS,
    ),
    "sentence_modules": Target(
        lambda directory: write_sentence_modules(_models(directory)[:2], directory / "sentences"),
        ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "?_*/config.json"],
        (change_modules,) * 4 + (change_bytes,),
        read_sentence_modules_and_embed,
        ["flaxmill embed {inside} --data {inside}/../text.txt --output {inside}/e.npy"],
    ),
    "csv": _table("csv", "csv", ["classification", "causal", "seq2seq"], CHANGE_TEXT, CLASSIFY),
    "tsv": _table("tsv", "tsv", ["classification", "mlm", "seq2seq"], CHANGE_TEXT, CLASSIFY),
    "jsonl": _table(
        "jsonl",
        "jsonl",
        ["classification", "token_classification", "causal", "seq2seq"],
        (change_rows, *CHANGE_TEXT),
        CLASSIFY,
    ),
    "json": _table(
        "json",
        "json",
        ["classification", "token_classification", "causal", "seq2seq"],
        (change_rows, *CHANGE_TEXT),
        CLASSIFY,
    ),
    "conversations": Target(
        write_chats,
        ["chats.jsonl", "chat_template.jinja"],
        (change_chats, *CHANGE_TEXT),
        read_chats,
        [CHAT],
    ),
    "conll": _table("conll", "conll", ["token_classification"], CHANGE_TEXT, TAG),
    "squad": _table(
        "squad", "json", ["question_answering"], (change_rows, change_rows, change_bytes), ANSWER
    ),
    "gz": _table("jsonl", "jsonl.gz", ["classification", "causal"], CHANGE_TEXT, CLASSIFY, PACKERS["gz"]),
    "bz2": _table("csv", "csv.bz2", ["classification", "causal"], CHANGE_TEXT, CLASSIFY, PACKERS["bz2"]),
    "xz": _table("squad", "json.xz", ["question_answering"], CHANGE_TEXT, ANSWER, PACKERS["xz"]),
    "parquet": _table(
        "parquet", "parquet", ["classification", "token_classification", "causal"], (change_bytes,), CLASSIFY
    ),
    "npy": _ids("npy", lambda at: np.save(at / "data.npy", IDS), ["data.npy"]),
    "bin": _ids("bin", lambda at: IDS.astype("uint16").tofile(at / "data.bin"), ["data.bin"]),
    "indexed": _ids(
        "indexed",
        lambda at: write_indexed(at / "data.bin", [[IDS[:9], IDS[9:20]], [IDS[20:]]]),
        ["data.idx", "data.bin"],
    ),
    "saved": _ids(
        "saved",
        lambda at: save_to_disk(at / "data.saved", [{"text": text} for text in TEXT.split("\n\n")]),
        ["data.saved/state.json", "data.saved/*.arrow"],
        change_json(["_data_files", "filename", "_split", "_indices_files"], ["data-00000-of-00002.arrow"]),
    ),
    "metrics.jsonl": Target(
        _run, ["run/metrics.jsonl"], (change_row, change_row, *CHANGE_TEXT), read_rows, _RUN_COMMANDS[3:]
    ),
    "report": Target(
        _reported,
        ["run/metrics.jsonl", "run/data_card.json", "run/samples.jsonl", "run/eval-2/predictions.jsonl"],
        (change_reported, change_reported, *CHANGE_TEXT),
        read_report,
        _RUN_COMMANDS[3:4],
    ),
    "manifest": Target(
        _run, ["run/checkpoints/*/_CHECKPOINT_METADATA"], (change_manifest,), read_run, _RUN_COMMANDS
    ),
    "checkpoint": Target(
        _run, ["run/checkpoints/*/**/*"], (change_json(), change_bytes, change_bytes), read_run, _RUN_COMMANDS
    ),
    "run_config": Target(
        _run, ["run/config.json"], (change_experiment,) * 4 + (change_bytes,), read_run, _RUN_COMMANDS
    ),
    "dataset": Target(
        _dataset,
        ["cache/data/*/dataset.json", "cache/data/*/*.json", "cache/data/*/*array_record*"],
        (change_json(DATASET_NAMES), change_json(DATASET_NAMES), change_bytes),
        read_dataset,
        _CARDS,
    ),
    "run_directory": Target(_run, (), (), read_run, _RUN_COMMANDS),
    "dataset_directory": Target(_dataset, (), (), read_dataset, _CARDS),
    "model_directory": Target(_models, (), (), read_text_model, _TEXT_COMMANDS),
}
