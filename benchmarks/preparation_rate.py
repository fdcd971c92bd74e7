"""Measures tokens/s of preparation beside the tokenizers library alone, Hugging Face datasets and Grain.

    python benchmarks/preparation_rate.py [--megabytes 32] [--rounds 3] [--folder DIR]

All sides turn the same JSONL (see preparation_text.py) into rows of 1,024 tokens with the same byte-level BPE
of 32,768 entries, which is trained once and kept with the text in FOLDER:

  tokenizer   `encode_batch_fast` of the library tokenizers on texts in memory, no rows made: the ceiling for
              whatever has each text encoded by it
  prepare     flaxmill.data.preparation.cache.prepare with a cold cache: reads JSONL, writes shards; it has
              each word encoded once and remembers it, so it may be faster than the library is with texts
  datasets    Hugging Face datasets: one `map(batched=True)` encodes and groups texts in memory, and writes
  grain       Grain's MapDataset over texts in memory, ConcatThenSplitIterDataset; the rows stay in memory

Each measurement is a process of its own, with one thread of the tokenizer in each process that works
(RAYON_NUM_THREADS=1), except for the tokenizer on two cores, where it has two. The sides take turns, and
medians are printed: tokens a second of each core that may work, and tokens a second of CPU time, which a busy
machine changes less. Without the library datasets its sides are left out.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from preparation_text import keep_tokenizer, write_jsonl

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.preparation.means import Means

ROW, NUM_FILES = 1024, 4
SIDES = [f"{name} {cores}" for name in ("tokenizer", "prepare", "datasets", "grain") for cores in (1, 2)]
SIDES.remove("grain 2")

Work = Callable[[], int]
"""Does what is timed; returns the number of tokens."""


def read_texts(files: list[Path]) -> list[str]:
    """The documents of all files."""
    return [json.loads(line)["text"] for file in files for line in file.open(encoding="utf-8")]


def tokenizer_side(files: list[Path], tokenizer: tokenizers.Tokenizer, cores: int) -> Work:
    """Encodes in batches of some 300 KB; larger ones are 5% slower."""
    texts = read_texts(files)
    encode = lambda start: tokenizer.encode_batch_fast(texts[start : start + 100], add_special_tokens=False)  # noqa: E731
    return lambda: sum(len(each.ids) for start in range(0, len(texts), 100) for each in encode(start))


def prepare_side(files: list[Path], tokenizer: tokenizers.Tokenizer, cores: int) -> Work:
    """Prepares into a directory that is new."""
    config = DataConfig(
        files=tuple(map(str, files)),
        text_column="text",
        tokenizer=str(files[0].parent / "tokenizer.json"),
        sequence_length=ROW,
    )

    def work() -> int:
        with tempfile.TemporaryDirectory(dir=files[0].parent) as cache:
            dataset = prepare(
                config, "causal", cache=Path(cache), log=lambda line: None, means=Means(num_workers=cores)
            )
            statistics_ = dataset.statistics
        return sum(split["num_tokens"] for split in statistics_.values())

    return work


def datasets_side(files: list[Path], tokenizer: tokenizers.Tokenizer, cores: int) -> Work:
    """The examples' way to pretraining rows: encode, join and cut each batch of documents."""
    datasets: Any = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    documents = datasets.Dataset.from_dict({"text": read_texts(files)})
    end = tokenizer.token_to_id("<|endoftext|>")

    def rows_of(batch: dict[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        ids = np.concatenate([np.array([*each.ids, end], np.int32) for each in encoded])
        return {"input_ids": ids[: len(ids) // ROW * ROW].reshape(-1, ROW)}

    def work() -> int:
        with tempfile.TemporaryDirectory(dir=files[0].parent) as directory:
            rows = documents.map(
                rows_of,
                batched=True,
                num_proc=None if cores == 1 else cores,
                remove_columns=["text"],
                cache_file_name=f"{directory}/rows.arrow",
            )
            return len(rows) * ROW

    return work


def grain_side(files: list[Path], tokenizer: tokenizers.Tokenizer, cores: int) -> Work:
    """Encodes document by document, as a Grain pipeline does, in the thread that asks for rows."""
    import grain

    texts = read_texts(files)
    end = tokenizer.token_to_id("<|endoftext|>")

    def encode(text: str) -> dict[str, np.ndarray]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return {"tokens": np.array([*ids, end], np.int32)}

    def work() -> int:
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        documents = grain.MapDataset.source(texts).map(encode).to_iter_dataset(options)
        rows = grain.experimental.ConcatThenSplitIterDataset(documents, length_struct={"tokens": ROW})
        return sum(len(row["tokens"]) for row in rows)

    return work


def run_side(side: str, folder: Path, num_bytes: int) -> None:
    """Measures one side in this process and prints what it found."""
    name, cores = side.split()
    files = write_jsonl(folder, num_bytes, NUM_FILES, respelled=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    make = {
        "tokenizer": tokenizer_side,
        "prepare": prepare_side,
        "datasets": datasets_side,
        "grain": grain_side,
    }
    work = make[name](files, tokenizer, int(cores))
    cpu, started = cpu_seconds(), time.perf_counter()
    num_tokens = work()
    seconds = time.perf_counter() - started
    print(json.dumps([num_tokens / seconds / int(cores), num_tokens / (cpu_seconds() - cpu)]))


def cpu_seconds() -> float:
    """CPU time of this process and of its children that ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(side: str, arguments: list[str]) -> list[float]:
    """Tokens a second of a core and of CPU time, by a process of its own."""
    threads = side.split()[1] if side.startswith("tokenizer") else "1"
    several = "true" if threads != "1" else "false"
    environ = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": several}
    command = [sys.executable, __file__, "--side", side, *arguments]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Prints a line for every side."""
    parser = argparse.ArgumentParser(description="Rates of preparation.")
    parser.add_argument("--megabytes", type=float, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "flaxmill-preparation")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    num_bytes = int(given.megabytes * 1e6)
    if given.side:
        run_side(given.side, given.folder, num_bytes)
        return 0
    write_jsonl(given.folder, num_bytes, NUM_FILES, respelled=True)
    keep_tokenizer(given.folder)
    sides = SIDES
    if importlib.util.find_spec("datasets") is None:
        print("datasets is not installed, so its sides are left out: pip install datasets")
        sides = [side for side in SIDES if not side.startswith("datasets")]
    found: dict[str, list[list[float]]] = {side: [] for side in sides}
    arguments = ["--folder", str(given.folder), "--megabytes", str(given.megabytes)]
    for _ in range(given.rounds):
        for side in sides:
            found[side].append(measure(side, arguments))
    median = lambda runs: [statistics.median(rates) for rates in zip(*runs, strict=True)]  # noqa: E731
    report({side: median(runs) for side, runs in found.items()})
    return 0


def report(rates: dict[str, list[float]]) -> None:
    """Prints the rates."""
    for side, (of_core, of_cpu) in rates.items():
        name, cores = side.split()
        share = of_cpu / rates["tokenizer 1"][1]
        print(
            f"{name}, {cores} core{'s' * (cores != '1')}: {of_core:,.0f} tokens/s a core, {of_cpu:,.0f} a "
            f"second of CPU time, {share:.2f} of the tokenizer's"
        )


if __name__ == "__main__":
    sys.exit(main())
