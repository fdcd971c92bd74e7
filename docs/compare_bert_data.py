"""Puts the statistics of our sentence pairs and masks beside those of google-research/bert into docs/data.md.

    git clone https://github.com/google-research/bert
    python docs/compare_bert_data.py bert/create_pretraining_data.py

Both read the documentation embedded in the running Python, with one vocabulary. The file needs TensorFlow
only to name flags and to open files, so a stand-in takes its place.
"""

import argparse
import dataclasses
import functools
import importlib.util
import random
import sys
import tempfile
import types
import unittest.mock
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.text.embedded_corpus import embedded_corpus
from flaxmill.data.text.sentences import split_sentences
from flaxmill.data.tokenization import Tokenizer, special_lookup

PAGE = Path(__file__).parent / "data.md"
START, END = "<!-- made: pairs of BERT -->\n", "<!-- end: pairs of BERT -->"
LENGTH, MASK_RATE, MOST_MASKED, SHORT = 128, 0.15, 20, 0.1


class Pairs(NamedTuple):
    """Rows of pairs: original tokens and what the model sees [n,T], where it predicts [n,T], the length of
    each row [n], the tokens of [CLS] A [SEP] [n], whether B is random [n], and the pass over the text [n]."""

    tokens: np.ndarray
    seen: np.ndarray
    predicted: np.ndarray
    length: np.ndarray
    first_length: np.ndarray
    is_random: np.ndarray
    copy: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("reference", type=Path, help="create_pretraining_data.py of google-research/bert")
    parser.add_argument("--copies", type=int, default=40, help="dupe_factor there, pair_copies here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        columns = compare(arguments.reference, Path(directory), arguments.copies)
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(START)
    PAGE.write_text(before + START + make_table(columns) + END + rest.split(END)[1], encoding="utf-8")


def compare(reference: Path, directory: Path, num_copies: int) -> dict[str, dict[str, str]]:
    """{heading: {measure: value}} for both programs, with masks of tokens and of whole words."""
    text = write_corpus(directory)
    config = DataConfig(
        files=(str(text),),
        valid_files=(str(write_held_out(directory)),),
        documents="blank_lines",
        tokenizer="wordpiece",
        vocab_size=8000,
        sequence_length=LENGTH,
        mask_rate=MASK_RATE,
        short_pair_probability=SHORT,
        pair_copies=num_copies,
        static_masks=True,
    )
    dataset = prepare(config, "mlm_nsp", cache=directory)
    module = load_reference(reference)
    columns = {}
    for name, masking in (("tokens", "tokens"), ("whole words", "whole_words")):
        module.FLAGS.do_whole_word_mask = masking == "whole_words"
        theirs = read_reference(module, text, dataset.tokenizer, num_copies)
        ours = read_ours(dataset, dataclasses.replace(config, masking=masking))
        columns[f"google-research/bert, {name}"] = measure(theirs, dataset.tokenizer)
        columns[f"flaxmill, {name}"] = measure(ours, dataset.tokenizer)
    return columns


def write_corpus(directory: Path) -> Path:
    """One sentence a line, and a blank line after each document."""
    documents = []
    (source,) = embedded_corpus("prose").sources
    for document in source.read():
        sentences = [" ".join(sentence.split()) for sentence in split_sentences(document)]
        documents.append("\n".join(sentences))
    file = directory / "corpus.txt"
    file.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return file


def write_held_out(directory: Path) -> Path:
    file = directory / "held_out.txt"
    file.write_text("One sentence.\nAnd another.\n\nA second document.\nIts end.\n", encoding="utf-8")
    return file


def load_reference(file: Path) -> types.ModuleType:
    """The module, with stand-ins for tensorflow and for its tokenization, which is ours here."""
    tensorflow = types.ModuleType("tensorflow")
    flags = types.SimpleNamespace(FLAGS=types.SimpleNamespace(do_whole_word_mask=False))
    for kind in ("string", "bool", "integer", "float"):
        setattr(flags, f"DEFINE_{kind}", lambda *arguments: None)
    opened = types.SimpleNamespace(GFile=functools.partial(open, encoding="utf-8"))
    tensorflow.__dict__.update(flags=flags, gfile=opened)
    tokenization = types.ModuleType("tokenization")
    tokenization.__dict__.update(convert_to_unicode=lambda text: text, printable_text=lambda text: text)
    spec = importlib.util.spec_from_file_location("create_pretraining_data", file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file} is not a Python file; give create_pretraining_data.py")
    module = importlib.util.module_from_spec(spec)
    with unittest.mock.patch.dict(sys.modules, tensorflow=tensorflow, tokenization=tokenization):
        spec.loader.exec_module(module)
    return module


def read_reference(module: types.ModuleType, text: Path, tokenizer: Tokenizer, num_copies: int) -> Pairs:
    """The instances that the program makes of a text."""
    vocabulary = tokenizer.inner.get_vocab()
    pieces = types.SimpleNamespace(
        vocab=vocabulary,
        tokenize=lambda line: tokenizer.inner.encode(line, add_special_tokens=False).tokens,
    )
    generator = random.Random(12345)
    # One pass a call, so that it is known which pass a pair is from.
    passes = [
        module.create_training_instances(
            [str(text)], pieces, LENGTH, 1, SHORT, MASK_RATE, MOST_MASKED, generator
        )
        for _ in range(num_copies)
    ]
    copy = np.repeat(np.arange(num_copies), [len(instances) for instances in passes])
    instances = [instance for its_instances in passes for instance in its_instances]
    seen, predicted = np.zeros((len(instances), LENGTH), np.int32), np.zeros((len(instances), LENGTH), bool)
    length = np.array([len(instance.tokens) for instance in instances])
    first = np.array([instance.segment_ids.index(1) for instance in instances])
    for row, instance in enumerate(instances):
        seen[row, : length[row]] = [vocabulary[token] for token in instance.tokens]
        predicted[row, instance.masked_lm_positions] = True
    tokens = seen.copy()
    labels = [vocabulary[label] for instance in instances for label in instance.masked_lm_labels]
    tokens[predicted] = labels
    is_random = np.array([instance.is_random_next for instance in instances])
    return Pairs(tokens, seen, predicted, length, first, is_random, copy)


def read_ours(dataset: Dataset, config: DataConfig) -> Pairs:
    """Our rows of all copies."""
    number = dataset.statistics["train"]["num_rows"]
    batches = Batches(dataset, "train", config=config, objective="mlm_nsp", batch_size=number, seed=0)
    parts = [batches.rows(0, start, min(start + 4096, number)) for start in range(0, number, 4096)]
    batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    predicted, length = batch["weights"] > 0, batch["mask"].sum(1)
    tokens = np.where(predicted, batch["targets"], batch["tokens"])
    first = length - batch["segments"].sum(1)
    rows_per_copy = dataset.statistics["train"]["rows_per_copy"]
    copy = np.repeat(np.arange(len(rows_per_copy)), rows_per_copy)  # an epoch is a copy
    return Pairs(tokens, batch["tokens"], predicted, length, first, batch["nsp_labels"] > 0, copy)


def measure(pairs: Pairs, tokenizer: Tokenizer) -> dict[str, str]:
    """What the table shows of each program's pairs."""
    seen, original = pairs.seen[pairs.predicted], pairs.tokens[pairs.predicted]
    is_mask, is_kept = seen == tokenizer.mask_id, seen == original
    real = np.arange(LENGTH) < pairs.length[:, None]
    special = special_lookup(tokenizer)[pairs.tokens] & real
    # [UNK] is a word that the vocabulary lacks, and masked as words are.
    special &= pairs.tokens != tokenizer.roles["unk"]
    second, counts = pairs.length - pairs.first_length, pairs.predicted.sum(1)

    def mean(values: np.ndarray, scale: float = 1.0) -> str:
        return _mean_over_copies(values * scale, pairs.copy)

    return {
        "pairs": f"{len(pairs.length):,}",
        "predicted tokens of all": f"{pairs.predicted.sum() / real.sum():.3%}",
        "of these masked": f"{is_mask.mean():.2%}",
        "of these unchanged": f"{is_kept.mean():.2%}",
        "of these another word": f"{(~is_mask & ~is_kept).mean():.2%}",
        "most predictions of a row": f"{counts.max()}",
        "special tokens predicted": f"{(special & pairs.predicted).sum()}",
        "random second sentences, %": mean(pairs.is_random, 100),
        "full rows, %": mean(pairs.length == LENGTH, 100),
        "rows below 90% of the length, %": mean(pairs.length < 0.9 * LENGTH, 100),
        "rows below half the length, %": mean(pairs.length < 0.5 * LENGTH, 100),
        "mean length of a row": mean(pairs.length),
        "mean length of A": mean(pairs.first_length - 2),
        "mean length of B": mean(second - 1),
        "mean predictions of a row": mean(counts),
    }


def _mean_over_copies(values: np.ndarray, copy: np.ndarray) -> str:
    """A mean over all pairs, and twice its standard error: pairs of one pass depend on each other, since a
    long document with a short target gives many short pairs, but passes do not."""
    number = copy.max() + 1
    totals, counts = np.bincount(copy, weights=values), np.bincount(copy)
    mean = totals.sum() / counts.sum()
    # The deviation of a ratio of sums.
    error = np.sqrt(((totals - mean * counts) ** 2).sum() * number / (number - 1)) / counts.sum()
    return f"{mean:.2f} ± {2 * error:.2f}"


def make_table(columns: dict[str, dict[str, str]]) -> str:
    headings = list(columns)
    lines = [f"| | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    for name in columns[headings[0]]:
        lines.append(f"| {name} | {' | '.join(columns[heading][name] for heading in headings)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
