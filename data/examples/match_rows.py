"""Two texts that belong together, such as a question and its answer, a row for both."""

from collections.abc import Sequence

import numpy as np

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.encoded_rows import pad_rows
from flaxmill.data.examples.example import Example, read_texts
from flaxmill.data.examples.framing import make_framer
from flaxmill.data.examples.labelled_rows import EncodedRows, Encoder, check_tokens, encode_examples
from flaxmill.data.files.rows import Row
from flaxmill.data.tokenization import Tokenizer

# T tokens of a row


def read_match(row: Row, config: DataConfig) -> Example:
    """Two texts that belong together. Raises ValueError where no column is named for the second."""
    if config.pair_column is None:
        raise ValueError(
            "data.pair_column=None names no column for the second of two texts; give --data.pair-column"
        )
    return Example(read_texts(row, config), None, row.values, row.place)


def make_match_encoder(config: DataConfig, tokenizer: Tokenizer, labels: tuple[str, ...]) -> Encoder:
    """Rows that hold the first text and then the second, each framed as the tokenizer frames one text.

    Each has at most half of data.sequence_length tokens, and is cut on the tokenizer's truncation side.
    """
    framer = make_framer(tokenizer, "", markup=config.reads_markup_in_examples)
    most, num_around = config.sequence_length // 2, framer.num_special_tokens_to_add(False)
    if most <= num_around:
        raise ValueError(
            f"data.sequence_length={config.sequence_length} is that of two texts, and has no room for them "
            f"beside the {num_around} tokens around each; raise it"
        )
    framer.enable_truncation(most, direction=tokenizer.truncation_side)

    def encode(examples: Sequence[Example], first: int) -> EncodedRows:
        of_texts = [(example, text) for example in examples for text in example.texts]
        owners = [example for example, _ in of_texts]
        encodings = encode_examples(framer.encode_batch_fast, [text for _, text in of_texts], owners)
        ids = [encoding.ids for encoding in encodings]
        check_tokens(ids, owners)
        firsts, seconds = ids[::2], ids[1::2]
        rows = {
            "tokens": pad_rows([a + b for a, b in zip(firsts, seconds, strict=True)], config.sequence_length),
            "length": np.array([len(a) + len(b) for a, b in zip(firsts, seconds, strict=True)], np.int32),
            "first_length": np.array([len(a) for a in firsts], np.int32),
            "number": first + np.arange(len(examples)),
        }
        is_cut = [bool(encoding.overflowing) for encoding in encodings]
        return EncodedRows(rows, sum(a or b for a, b in zip(is_cut[::2], is_cut[1::2], strict=True)))

    return encode
