"""Batches as text, for a reader who wants to see what the model is given."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxmill.data.show_examples import describe_example, describe_target
from flaxmill.data.stored_rows import NumpyBatch
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.pieces import one_line, spell_runs, spell_token

_MAX_PREDICTIONS_SHOWN = 12
# Where more of a row is predicted than this, it is a causal row: nearly every place is.
_MOST_MASKED = 0.5

Style = Literal["title", "border", "text", "special", "second", "prefix", "masked", "predicted", "target"]
LEGEND: dict[Style, str] = {
    "border": "where a document or segment begins",
    "special": "special token",
    "second": "second segment",
    "prefix": "seen both ways",
    "masked": "masked",
    "predicted": "predicted, not masked",
    "target": "what is predicted",
}
"""What the styles of a shown batch mean."""


class Span(NamedTuple):
    """A part of a line."""

    text: str
    style: Style = "text"


Line = tuple[Span, ...]


def describe_batch(batch: NumpyBatch, tokenizer: Tokenizer, rows: int = 2, labels: Sequence[str] = ()) -> str:
    """`show_batch` as plain text."""
    lines = show_batch(batch, tokenizer, rows, labels)
    return "\n".join("".join(span.text for span in line) for line in lines)


def show_batch(
    batch: NumpyBatch,
    tokenizer: Tokenizer,
    rows: int = 2,
    labels: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> list[Line]:
    """The first rows of a batch: each document's text with its masked places, and what is predicted; or each
    labelled example and its label. `labels` are the dataset's `label_names`, `sources` the names of a
    mixture's sources."""
    num_rows, length = batch["tokens"].shape
    lines = [_title(f"{num_rows} rows of {length} tokens, {_counts(batch)}")]
    for row in range(min(rows, num_rows)):
        first, *others = _show_row(batch, row, tokenizer, labels)
        if sources and "sources" in batch:
            first = (*first, Span(f", from {sources[int(batch['sources'][row])]}", "title"))
        lines += [(), first, *others]
    return lines


def batch_as_json(batch: NumpyBatch, tokenizer: Tokenizer, rows: int) -> list[dict[str, Any]]:
    """The first rows of a batch: every array of it by name, and `pieces`, the text of each place.

    The bytes of a character are together at the first of their places; the others have an empty text.
    """
    shown: list[dict[str, Any]] = []
    for row in range(min(rows, len(batch["tokens"]))):
        pieces = [""] * batch["tokens"].shape[1]
        for run in spell_runs(tokenizer, _real(batch, row)):
            pieces[run.start] = run.text
        shown.append({"pieces": pieces} | {name: values[row].tolist() for name, values in batch.items()})
    return shown


def _counts(batch: NumpyBatch) -> str:
    num_real = f"{int(batch['mask'].sum())} real"
    if "example_numbers" in batch:
        return num_real
    num_targets = int((batch["weights"] > 0).sum())
    return f"{num_real}, {num_targets} {'to write' if 'decoder_tokens' in batch else 'predicted'}"


def _show_row(batch: NumpyBatch, row: int, tokenizer: Tokenizer, labels: Sequence[str]) -> list[Line]:
    if "example_numbers" in batch:
        return _plain(describe_example(batch, row, tokenizer, labels))
    if "decoder_tokens" in batch:
        title = f"row {row}: {int(batch['mask'][row].sum())} tokens"
        return _plain([title, *describe_target(batch, row, tokenizer)])
    lines = [_title(f"row {row}: {_row_title(batch, row, labels)}")]
    lines += [_show_part(batch, row, part, title, tokenizer) for part, title in _parts(batch, row)]
    return lines + _show_predictions(batch, row, tokenizer)


def _plain(lines: Sequence[str]) -> list[Line]:
    """The first line is a title, and what is before a colon a border."""
    parted = [line.partition(": ") for line in lines[1:]]
    return [_title(lines[0]), *((Span(name + colon, "border"), Span(text)) for name, colon, text in parted)]


def _title(text: str) -> Line:
    return (Span(text, "title"),)


def _parts(batch: NumpyBatch, row: int) -> Iterator[tuple[np.ndarray, str]]:
    """The places of each document, and of each segment of it where the row has two; and their name."""
    documents = batch["documents"][row]
    segments = batch["segments"][row] if "segments" in batch else np.zeros_like(documents)
    for document in range(1, int(documents.max(initial=0)) + 1):
        for segment in np.unique(segments[documents == document]):
            places = np.flatnonzero((documents == document) & (segments == segment))
            name = f", segment {'AB'[int(segment > 0)]}" if "segments" in batch else ""
            yield places, f"document {document}{name}, places {places[0]}-{places[-1]}"


def _show_part(batch: NumpyBatch, row: int, places: np.ndarray, title: str, tokenizer: Tokenizer) -> Line:
    tokens = batch["tokens"][row, places].tolist()
    styles = _styles(batch, row, tokenizer)[places]
    spans = [Span(f"  {title}: ", "border")]
    for run in spell_runs(tokenizer, tokens):
        # A character that is masked in part is shown as masked.
        style = max(styles[run.start : run.end], key=lambda name: name in ("masked", "predicted"))
        spans.append(Span(one_line(run.text), style))
    return tuple(spans)


def _styles(batch: NumpyBatch, row: int, tokenizer: Tokenizer) -> np.ndarray:
    """The style of each place, [T]."""
    tokens, weights = batch["tokens"][row], batch["weights"][row]
    styles = np.full(len(tokens), "text", dtype=object)
    if "segments" in batch:
        styles[batch["segments"][row] > 0] = "second"
    if "prefix" in batch:
        styles[: int(batch["prefix"][row])] = "prefix"
    styles[np.isin(tokens, list(tokenizer.special_ids))] = "special"
    if _predicts_spans(batch, row):
        styles[1:][weights[:-1] > 0] = "target"
    elif (weights > 0).sum() < _MOST_MASKED * batch["mask"][row].sum():
        styles[weights > 0] = "predicted"
    if tokenizer.mask_id is not None:
        styles[tokens == tokenizer.mask_id] = "masked"
    return styles


def _show_predictions(batch: NumpyBatch, row: int, tokenizer: Tokenizer) -> list[Line]:
    lines: list[Line] = []
    predicted = np.flatnonzero(batch["weights"][row] > 0)
    if _predicts_spans(batch, row):
        return [_show_span(batch, row, places, tokenizer) for places in _runs(predicted)]
    for place in predicted[:_MAX_PREDICTIONS_SHOWN]:
        seen, wanted = (
            spell_token(tokenizer, int(batch[name][row, place])) for name in ("tokens", "targets")
        )
        lines.append((Span(f"  place {place}: sees {seen!r}, predicts "), Span(repr(wanted), "target")))
    if len(predicted) > _MAX_PREDICTIONS_SHOWN:
        lines.append((Span(f"  and {len(predicted) - _MAX_PREDICTIONS_SHOWN} more predictions"),))
    return lines


def _predicts_spans(batch: NumpyBatch, row: int) -> bool:
    """Whether it is a causal row in which only some of the next tokens are predicted: a conversation."""
    tokens, documents, weights = (batch[name][row] for name in ("tokens", "documents", "weights"))
    follows = (documents[1:] == documents[:-1]) & (documents[1:] > 0)
    predicted = weights[:-1] > 0
    is_next = (batch["targets"][row][:-1] == tokens[1:])[predicted].all()
    return bool("prefix" not in batch and predicted.any() and is_next and (follows & ~predicted).any())


def _runs(places: np.ndarray) -> list[np.ndarray]:
    """The places in runs without gaps."""
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)


def _show_span(batch: NumpyBatch, row: int, places: np.ndarray, tokenizer: Tokenizer) -> Line:
    runs = spell_runs(tokenizer, batch["targets"][row, places].tolist())
    text = "".join(one_line(run.text) for run in runs)
    return (Span(f"  places {places[0]}-{places[-1]} predict "), Span(text, "target"))


def _real(batch: NumpyBatch, row: int) -> list[int]:
    """The tokens up to the last that is no padding."""
    places = np.flatnonzero(batch["mask"][row])
    return batch["tokens"][row, : places[-1] + 1 if len(places) else 0].tolist()


def _row_title(batch: NumpyBatch, row: int, labels: Sequence[str]) -> str:
    parts = [
        f"{int(batch['mask'][row].sum())} tokens",
        f"{int((batch['weights'][row] > 0).sum())} predictions",
    ]
    if "prefix" in batch:
        parts.append(f"the first {int(batch['prefix'][row])} seen both ways")
    if "causal" in batch:
        parts.append("causal" if batch["causal"][row] else "masked next token")
    if "nsp_labels" in batch:
        second = int(batch["segments"][row].sum())
        parts.append(f"B of {second} tokens is {labels[batch['nsp_labels'][row]]}")
    return ", ".join(parts)
