"""Fill-in-the-middle: a document's middle is moved behind what surrounds it (Bavarian et al. 2022)."""

from typing import NamedTuple

import numpy as np

from flaxmill.data.draws import INFILL, bits, to_uniform
from flaxmill.data.objectives import INFILL_TOKENS
from flaxmill.data.stored_rows import Rows

# n rows, W places of a row, S texts of all rows

_NUM_MARKS = len(INFILL_TOKENS)
_DRAWS = np.arange(4)  # whether, which order, and the two cuts


class _Texts(NamedTuple):
    """The texts of rows, each [S]: its row, and the places from its first token to behind its last."""

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray


def move_middles(rows: Rows, tokens: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The tokens [n,W], with data.fim_rate of the texts in a row made into prefix, suffix and middle.

    Half of them become <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle, the others
    <|fim_prefix|> <|fim_suffix|> suffix <|fim_middle|> prefix middle (PSM and SPM, section 3), cut at two
    random places. A text keeps its places in the row: its last three tokens give way to the marks. Special
    tokens around a text stay where they are, and a text of three tokens or fewer stays as it is. So does a
    text that is nowhere in `rows.tokens`, nor follows them.
    """
    tokenizer = rows.source.tokenizer.inner
    marks = np.array([tokenizer.token_to_id(name) for name in INFILL_TOKENS], tokens.dtype)
    is_text = (documents > 0) & ~rows.source.is_special[tokens]
    rate = rows.source.config.fim_rate
    return infill(tokens, documents, is_text, rows.keys, rate=rate, marks=marks, part=rows.tokens)


def infill(
    tokens: np.ndarray,
    documents: np.ndarray,
    is_text: np.ndarray,
    keys: np.ndarray,
    *,
    rate: float,
    marks: np.ndarray,
    part: range,
) -> np.ndarray:
    """As `move_middles`.

    Args:
      is_text: bool [n,W]: the places that hold text.
      keys: uint64 [n], one for each row's draws.
      marks: the ids of prefix, middle and suffix.
      part: the tokens that are wanted, and the one after them.
    """
    texts = _find_texts(documents, is_text)
    is_wanted = (texts.end > part.start) & (texts.start <= part.stop)
    texts = _Texts(*(values[is_wanted] for values in texts))
    draws = to_uniform(bits(keys[texts.row, None], INFILL, texts.start[:, None], _DRAWS))
    kept = texts.end - texts.start - _NUM_MARKS
    is_chosen = (draws[:, 0] < rate) & (kept > 0)
    texts, draws, kept = _Texts(*(values[is_chosen] for values in texts)), draws[is_chosen], kept[is_chosen]
    cuts = np.sort((draws[:, 2:] * (kept + 1)[:, None]).astype(np.int64), axis=1)

    sizes = kept + _NUM_MARKS
    text = np.repeat(np.arange(len(sizes)), sizes)
    offset = np.arange(len(text)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    suffix_first = draws[:, 1] >= 0.5
    source = _source(offset, cuts[text, 0], cuts[text, 1], kept[text], suffix_first[text])
    row, start = texts.row[text], texts.start[text]
    moved = np.where(source < 0, marks[np.minimum(source, -1)], tokens[row, start + np.maximum(source, 0)])
    infilled = tokens.copy()
    infilled[row, start + offset] = moved
    return infilled


def _find_texts(documents: np.ndarray, is_text: np.ndarray) -> _Texts:
    """Runs of text within a document."""
    padded = np.pad(np.where(is_text, documents, 0), ((0, 0), (1, 1)))
    changes = padded[:, 1:] != padded[:, :-1]
    row, start = np.nonzero(changes & (padded[:, 1:] > 0))
    _, end = np.nonzero(changes & (padded[:, :-1] > 0))
    return _Texts(row, start, end)


def _source(
    offset: np.ndarray, first: np.ndarray, second: np.ndarray, kept: np.ndarray, suffix_first: np.ndarray
) -> np.ndarray:
    """For each place of a text the place that its token comes from, or the mark: -3 for the prefix, -2 for
    the middle, -1 for the suffix."""
    suffix = kept - second
    # Where the marks of suffix and middle stand; what follows the mark of the middle comes last.
    suffix_mark = np.where(suffix_first, 1, 1 + first)
    middle_mark = suffix_mark + 1 + suffix
    last_part = offset - middle_mark - 1 + np.where(suffix_first, 0, first)
    return np.select(
        [
            offset == 0,
            offset < suffix_mark,
            offset == suffix_mark,
            offset < middle_mark,
            offset == middle_mark,
        ],
        [-3, offset - 1, -1, second + offset - suffix_mark - 1, -2],
        last_part,
    )
