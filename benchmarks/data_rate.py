"""Measures tokens a second of one core: rows of text, a mixture of 8 sources, masking beside transformers'.

    python benchmarks/data_rate.py

Reads prepared rows of the embedded corpus at 128 tokens, pinned to one core. The sides of a ratio take turns,
and medians are printed. transformers' collator masks rows that are in memory. Ours is measured on rows in
memory for that ratio, and with reading them from disk. The exit status is 1 if a bar is missed. JAX is not
needed.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.draws import ROW_DRAWS, bits
from flaxmill.data.mixture.mixed_batches import MixedBatches
from flaxmill.data.mixture.preparation import prepare_mixture
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.stored_rows import BatchSource, Rows
from flaxmill.data.text.embedded_corpus import embedded_corpus
from flaxmill.data.text_batches import pairs

BARS: dict[str, float] = {"causal": 1e7, "mlm_nsp": 1e6}
NUM_SOURCES, LEAST_SHARE = 8, 0.5  # of a mixture, and of the rate of one source
LEAST_TIMES_COLLATOR = 5.0
SECONDS_AT_STEP = 1.0  # for the batch of step 1,000,000
BATCH_SIZE, ROUNDS, SECONDS = 256, 5, 1.0

MakeBatch = Callable[[int], int]
"""(step) -> the real (unpadded) tokens of its batch."""


def say_nothing(line: str) -> None:
    """The log of a preparation that is not measured."""


def batches_of(dataset: Dataset, config: DataConfig, objective: str) -> Batches:
    """Training batches of a dataset."""
    return Batches(dataset, "train", config=config, objective=objective, batch_size=BATCH_SIZE, seed=0)


def counted(batches: Batches | MixedBatches) -> MakeBatch:
    """Makes batches, and counts their tokens."""
    return lambda step: int(batches.batch(step)["mask"].sum())


def measure(sides: dict[str, MakeBatch]) -> dict[str, float]:
    """Tokens a CPU second of each side: the median of rounds in which all take turns."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for make in sides.values():
        make(0)  # opens the files
    for round_ in range(ROUNDS):
        for name, make in sides.items():
            step, num_tokens, started = 1000 * round_, 0, time.process_time()
            while time.process_time() - started < SECONDS:
                step += 1
                num_tokens += make(step)
            rates[name].append(num_tokens / (time.process_time() - started))
    return {name: statistics.median(found) for name, found in rates.items()}


def write_sources(folder: Path) -> list[Path]:
    """The embedded corpus in 8 files of about the same size, every eighth document in each."""
    files = [folder / f"source{number}.txt" for number in range(NUM_SOURCES)]
    texts: list[list[str]] = [[] for _ in files]
    for number, document in enumerate(embedded_corpus("all").read()):
        texts[number % NUM_SOURCES].append(document.text)
    for file, its_texts in zip(files, texts, strict=True):
        file.write_text("\n\n".join(its_texts), encoding="utf-8")
    return files


def mixture_sides(folder: Path) -> tuple[dict[str, MakeBatch], MixedBatches]:
    """The same text as one source, and as a mixture of 8."""
    files = write_sources(folder)
    one = DataConfig(files=tuple(map(str, files)))
    dataset = prepare(one, "causal", cache=folder, log=say_nothing)
    many = DataConfig(sources=tuple(f"s{number}:{file}" for number, file in enumerate(files)))
    mixed = MixedBatches(
        prepare_mixture(many, "causal", cache=folder, log=say_nothing),
        config=many,
        objective="causal",
        batch_size=BATCH_SIZE,
        seed=0,
    )
    return {"one": counted(batches_of(dataset, one, "causal")), "mixture": counted(mixed)}, mixed


def masking_sides(dataset: Dataset, config: DataConfig) -> dict[str, MakeBatch]:
    """Dynamic masking of the same rows in memory: sentence pairs by us, and by transformers if it is here."""
    source, numbers = BatchSource(dataset, "train", config, None), np.arange(BATCH_SIZE)
    stored, whole = dataset.read("train", numbers), range(dataset.sequence_length)
    num_tokens = int((stored["first_length"] + stored["second_length"]).sum())

    def mask(step: int) -> int:
        pairs(Rows(source, stored, numbers, numbers, bits(ROW_DRAWS, 0, step, numbers), whole))
        return num_tokens

    try:
        import transformers
    except ImportError:
        return {"masking": mask}
    tokenizer: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=dataset.tokenizer.inner,
        **{f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")},
    )
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, return_tensors="np")
    lengths = stored["first_length"] + stored["second_length"]
    rows = [{"input_ids": row[:size].tolist()} for row, size in zip(stored["tokens"], lengths, strict=True)]

    def collate_rows(step: int) -> int:
        collate(rows)
        return num_tokens

    return {"masking": mask, "collator": collate_rows}


def main() -> int:
    """Prints every rate beside its bar or its other side."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    missed = False
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides: dict[str, MakeBatch] = {}
        for objective in BARS:
            config = DataConfig(tokenizer="wordpiece" if objective == "mlm_nsp" else "bpe")
            dataset = prepare(config, objective, cache=folder, log=lambda line: print(f"  {line}"))
            sides[objective] = counted(batches_of(dataset, config, objective))
            if objective == "mlm_nsp":
                sides |= masking_sides(dataset, config)
        mixture, mixed = mixture_sides(folder)
        if cores:
            os.sched_setaffinity(0, {min(cores)})  # only now: preparation may use every core
        rates = measure(sides | mixture)
        started = time.perf_counter()
        mixed.batch(1_000_000)
        seconds = time.perf_counter() - started
    for objective, bar in BARS.items():
        missed |= rates[objective] < bar
        ratio = rates[objective] / bar
        print(f"{objective}: {rates[objective]:,.0f} tokens/s on one core, bar {bar:,.0f}, ratio {ratio:.2f}")
    share = rates["mixture"] / rates["one"]
    print(
        f"{NUM_SOURCES} sources: {rates['mixture']:,.0f} tokens/s, one source {rates['one']:,.0f}, ratio "
        f"{share:.2f}, bar {LEAST_SHARE}"
    )
    print(f"the batch of step 1,000,000 of the mixture: {seconds * 1e3:.0f} ms, bar {SECONDS_AT_STEP:.0f} s")
    missed |= share < LEAST_SHARE or seconds > SECONDS_AT_STEP
    if "collator" in rates:
        times = rates["masking"] / rates["collator"]
        print(
            f"masking rows in memory: {rates['masking']:,.0f} tokens/s, with sentence pairs; transformers' "
            f"DataCollatorForLanguageModeling {rates['collator']:,.0f}; ratio {times:.1f}, bar "
            f"{LEAST_TIMES_COLLATOR:.0f}"
        )
        missed |= times < LEAST_TIMES_COLLATOR
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
