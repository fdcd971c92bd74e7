"""Batches as text, for a reader who wants to see what the model is given."""

from collections.abc import Sequence

import numpy as np

from flaxmill.data.show_examples import describe_example, describe_target
from flaxmill.data.stored_rows import NumpyBatch
from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.vocabulary.pieces import one_line

_MAX_PREDICTIONS_SHOWN = 12


def describe_batch(batch: NumpyBatch, tokenizer: Tokenizer, rows: int = 2, labels: Sequence[str] = ()) -> str:
    """The first rows of a batch: each document's text with its masked places, and what is predicted; or each
    labelled example and its label. `labels` are the names of the categories."""
    num_rows, length = batch["tokens"].shape
    if "example_numbers" in batch:
        blocks = [f"{num_rows} rows of {length} tokens, {int(batch['mask'].sum())} real"]
        shown = range(min(rows, num_rows))
        blocks += ["\n".join(describe_example(batch, row, tokenizer, labels)) for row in shown]
        return "\n\n".join(blocks)
    if "decoder_tokens" in batch:
        num_real, num_targets = int(batch["mask"].sum()), int((batch["weights"] > 0).sum())
        blocks = [f"{num_rows} rows of {length} tokens, {num_real} real, {num_targets} to write"]
        for row in range(min(rows, num_rows)):
            title = f"row {row}: {int(batch['mask'][row].sum())} tokens"
            blocks.append("\n".join([title, *describe_target(batch, row, tokenizer)]))
        return "\n\n".join(blocks)
    num_real, num_predicted = int(batch["mask"].sum()), int((batch["weights"] > 0).sum())
    blocks = [f"{num_rows} rows of {length} tokens, {num_real} real, {num_predicted} predicted"]
    blocks += [_describe_row(batch, row, tokenizer) for row in range(min(rows, num_rows))]
    return "\n\n".join(blocks)


def _describe_row(batch: NumpyBatch, row: int, tokenizer: Tokenizer) -> str:
    tokens, documents = batch["tokens"][row], batch["documents"][row]
    lines = [f"row {row}: {_row_title(batch, row)}"]
    for document in range(1, int(documents.max(initial=0)) + 1):
        places = np.flatnonzero(documents == document)
        title = f"document {document}, places {places[0]}-{places[-1]}"
        lines.append(f"  {title}: {one_line(tokenizer.decode(tokens[places], skip_specials=False))}")
    predicted = np.flatnonzero(batch["weights"][row] > 0)
    for place in predicted[:_MAX_PREDICTIONS_SHOWN]:
        seen, wanted = (tokenizer.decode([batch[name][row, place]], False) for name in ("tokens", "targets"))
        lines.append(f"  place {place}: sees {seen!r}, predicts {wanted!r}")
    if len(predicted) > _MAX_PREDICTIONS_SHOWN:
        lines.append(f"  and {len(predicted) - _MAX_PREDICTIONS_SHOWN} more predictions")
    return "\n".join(lines)


def _row_title(batch: NumpyBatch, row: int) -> str:
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
        parts.append(f"B of {second} tokens is {'random' if batch['nsp_labels'][row] else 'what follows A'}")
    return ", ".join(parts)
