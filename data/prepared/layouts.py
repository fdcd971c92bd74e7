"""How rows of labelled examples are stored: the fields of each layout."""

from flaxmill.data.config import LabelType
from flaxmill.data.prepared.records import Field, RecordFormat

# S tokens of a source, U of a target, T of any other row; `number` is that of the row's example in its split.


def labelled_format(
    sequence_length: int, token_dtype: str, label_type: LabelType, num_labels: int
) -> RecordFormat:
    """A stored row: `tokens` and `segments` padded with zeros, `length`, `label` and `number`. Of multi_label
    `label` is a vector, 1 where a label applies."""
    label = {
        "category": Field("label", "int32", ()),
        "number": Field("label", "float32", ()),
        "multi_label": Field("label", "float32", (num_labels,)),
    }
    return RecordFormat(
        [
            Field("tokens", token_dtype, (sequence_length,)),
            Field("segments", "uint8", (sequence_length,)),
            Field("length", "int32", ()),
            label[label_type],
            Field("number", "int32", ()),
        ]
    )


def tagged_format(sequence_length: int, token_dtype: str) -> RecordFormat:
    """A stored row: `tokens` padded with zeros, `length`, `tags` (-1 where none stands), `number`."""
    return RecordFormat(
        [
            Field("tokens", token_dtype, (sequence_length,)),
            Field("tags", "int32", (sequence_length,)),
            Field("length", "int32", ()),
            Field("number", "int32", ()),
        ]
    )


def answer_format(sequence_length: int, token_dtype: str) -> RecordFormat:
    """A stored row: `tokens` and `segments` padded with zeros, `length`, the answer's `start` and `end`
    (both 0, the [CLS], where the window lacks it), and its example's `number`."""
    return RecordFormat(
        [
            Field("tokens", token_dtype, (sequence_length,)),
            Field("segments", "uint8", (sequence_length,)),
            Field("length", "int32", ()),
            Field("start", "int32", ()),
            Field("end", "int32", ()),
            Field("number", "int32", ()),
        ]
    )


def source_format(sequence_length: int, token_dtype: str, target_length: int) -> RecordFormat:
    """A stored row: `tokens` [S] and its `length`, `target` [U] with its end token and its `target_length`
    (0 where it is unknown), `number`."""
    return RecordFormat(
        [
            Field("tokens", token_dtype, (sequence_length,)),
            Field("length", "int32", ()),
            Field("target", token_dtype, (target_length,)),
            Field("target_length", "int32", ()),
            Field("number", "int32", ()),
        ]
    )


def prompt_format(sequence_length: int, token_dtype: str) -> RecordFormat:
    """A stored row: `tokens` [T+1], prompt and then target, so that the target of the last place exists; the
    `prompt_length`, the `length` of both, `number`."""
    return RecordFormat(
        [
            Field("tokens", token_dtype, (sequence_length + 1,)),
            Field("prompt_length", "int32", ()),
            Field("length", "int32", ()),
            Field("number", "int32", ()),
        ]
    )
