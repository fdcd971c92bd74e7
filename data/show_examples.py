"""Rows of labelled examples as text: what is read, and what is to be answered."""

from collections.abc import Sequence

import numpy as np

from flaxmill.data.stored_rows import NumpyBatch
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.pieces import one_line, spell_token

_MAX_TAGS_SHOWN = 12


def describe_example(batch: NumpyBatch, row: int, tokenizer: Tokenizer, labels: Sequence[str]) -> list[str]:
    """Lines on one row of a batch of labelled examples: its texts and its label, tags, answer or target."""
    tokens, is_real = batch["tokens"][row], batch["mask"][row] > 0
    number = int(batch["example_numbers"][row])
    lines = [f"row {row}: {'no example' if number < 0 else f'example {number}'}, {int(is_real.sum())} tokens"]
    if "reference" in batch:
        return [*lines, *_describe_pair(batch, row, tokenizer)]
    if "decoder_tokens" in batch:
        return [*lines, *describe_target(batch, row, tokenizer)]
    if "labels" in batch:
        label = batch["labels"][row]
        answer = [f"  labels: {_names(label, labels)}" if label.ndim else f"  label: {_name(label, labels)}"]
    elif "starts" in batch:
        answer = [f"  answer: {_answer(batch, row, tokenizer)}"]
    elif labels:
        answer = _describe_tags(batch, row, tokenizer, labels)
    elif "targets" in batch:
        return [*lines, *_describe_prompt(batch, row, tokenizer)]
    else:
        texts = (tokens[batch["documents"][row] == number] for number in (1, 2))
        names = ("first", "second")
        return [*lines, *(f"  {n}: {_spell(text, tokenizer)}" for n, text in zip(names, texts, strict=True))]
    return [*lines, f"  reads: {_spell(tokens[is_real], tokenizer)}", *answer]


def _spell(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    return one_line(tokenizer.decode(ids, skip_specials=False))


def _name(label: np.number, labels: Sequence[str]) -> str:
    if not labels:
        return f"{label:g}"
    return "unknown" if label < 0 else f"{labels[int(label)]} ({int(label)})"


def _names(applies_C: np.ndarray, labels: Sequence[str]) -> str:
    names = [f"{labels[number]} ({number})" for number in np.flatnonzero(applies_C).tolist()]
    return ", ".join(names) or "none"


def _answer(batch: NumpyBatch, row: int, tokenizer: Tokenizer) -> str:
    start, end = int(batch["starts"][row]), int(batch["ends"][row])
    if not start:
        return "none in this window"
    return f"{_spell(batch['tokens'][row, start : end + 1], tokenizer)} (places {start}-{end})"


def _describe_tags(batch: NumpyBatch, row: int, tokenizer: Tokenizer, labels: Sequence[str]) -> list[str]:
    places = np.flatnonzero(batch["weights"][row] > 0)
    lines = [
        f"  place {place}: {spell_token(tokenizer, int(batch['tokens'][row, place]))!r} is "
        f"{_name(batch['targets'][row, place], labels)}"
        for place in places[:_MAX_TAGS_SHOWN]
    ]
    more = len(places) - _MAX_TAGS_SHOWN
    return lines + ([f"  and {more} more tags"] if more > 0 else [])


def describe_target(batch: NumpyBatch, row: int, tokenizer: Tokenizer) -> list[str]:
    """Lines on one row of an encoder-decoder's batch: its source, and what is to be written."""
    source = batch["tokens"][row][batch["mask"][row] > 0]
    behind = batch["decoder_tokens"][row][batch["decoder_mask"][row] > 0]
    target = batch["targets"][row][batch["weights"][row] > 0]
    return [
        f"  reads: {_spell(source, tokenizer)}",
        f"  decoder reads: {_spell(behind, tokenizer)}",
        f"  writes: {_spell(target, tokenizer)}",
    ]


def _describe_pair(batch: NumpyBatch, row: int, tokenizer: Tokenizer) -> list[str]:
    """The prompt, up to the chosen answer, and both answers."""
    documents, is_target = batch["documents"][row], batch["weights"][row] > 0
    targets = batch["targets"][row]
    length = int(is_target.argmax()) + 1
    return [
        f"  prompt: {_spell(batch['tokens'][row, :length], tokenizer)}",
        *(
            f"  {name}: {_spell(targets[is_target & (documents == number)], tokenizer)}"
            for number, name in enumerate(("chosen", "rejected"), start=1)
        ),
    ]


def _describe_prompt(batch: NumpyBatch, row: int, tokenizer: Tokenizer) -> list[str]:
    tokens, is_target = batch["tokens"][row], batch["weights"][row] > 0
    length = int(is_target.argmax()) + 1 if is_target.any() else int(batch["mask"][row].sum())
    return [
        f"  prompt: {_spell(tokens[:length], tokenizer)}",
        f"  writes: {_spell(batch['targets'][row][is_target], tokenizer)}",
    ]
