"""How rows are stored: the fields of each layout."""

from collections.abc import Mapping
from typing import Any

from flaxmill.data.config import LabelType, Layout
from flaxmill.data.prepared.records import Field, RecordFormat

# S tokens of a source, U of a target, T of any other row (packed rows: T+1). `number` is the number of the
# row's example in its split.


def record_format(settings: Mapping[str, Any], vocab_size: int, num_labels: int) -> RecordFormat:
    """The format of the records of a dataset with these stored settings. Tokens take two bytes if the
    vocabulary allows it."""
    length, token_dtype = settings["sequence_length"], "uint16" if vocab_size <= 1 << 16 else "int32"
    layout: Layout = settings["layout"]
    match layout:
        case "packed":
            return packed_format(length, token_dtype, is_padded="packing" in settings)
        case "conversations":
            return conversation_format(length, token_dtype, is_padded="packing" in settings)
        case "pairs":
            return pair_format(length, token_dtype)
        case "labelled":
            return labelled_format(length, token_dtype, settings["label_type"], num_labels)
        case "tagged":
            return tagged_format(length, token_dtype)
        case "answers":
            return answer_format(length, token_dtype)
        case "sources":
            return source_format(length, token_dtype, settings["target_length"])
        case "prompts":
            return prompt_format(length, token_dtype)
        case "preferences":
            return preference_format(length, token_dtype)
        case "matches":
            return match_format(length, token_dtype)


def packed_format(sequence_length: int, token_dtype: str, *, is_padded: bool = False) -> RecordFormat:
    """A stored row: `tokens` and `starts`, one bit a token that says whether a document starts there.

    It holds T+1 tokens, so that the target of its last place exists; the next row repeats that token. Rows of
    whole documents are padded with zeros and have a `length`; it is T+1 where a document is cut at the row's
    end, for then only that target follows.
    """
    width = sequence_length + 1
    fields = [Field("tokens", token_dtype, (width,)), Field("starts", "uint8", ((width + 7) // 8,))]
    return RecordFormat([*fields, Field("length", "int32", ())] if is_padded else fields)


def conversation_format(sequence_length: int, token_dtype: str, *, is_padded: bool = False) -> RecordFormat:
    """A packed row, and `is_target`, one bit a token that says whether the assistant wrote it."""
    packed = packed_format(sequence_length, token_dtype, is_padded=is_padded)
    return RecordFormat([*packed.fields, Field("is_target", "uint8", ((sequence_length + 8) // 8,))])


def pair_format(sequence_length: int, token_dtype: str) -> RecordFormat:
    """A stored row: [CLS] A [SEP] B [SEP] padded with zeros, the lengths of [CLS] A [SEP] and of B [SEP],
    and the label: 1 if B is random, or if the two have been swapped."""
    return RecordFormat(
        [
            Field("tokens", token_dtype, (sequence_length,)),
            Field("first_length", "int32", ()),
            Field("second_length", "int32", ()),
            Field("label", "int32", ()),
        ]
    )


def labelled_format(
    sequence_length: int, token_dtype: str, label_type: LabelType, num_labels: int
) -> RecordFormat:
    """A stored row: `tokens` and `segments` padded with zeros, `length`, `label` and `number`. With
    multi_label, `label` is a vector, 1 where a label applies."""
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
    """A stored row: `tokens` padded with zeros, `length`, `tags` (-1 where there is none), `number`."""
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
    """A stored row: `tokens` [T+1], the prompt and then the target, so that the target of the last place
    exists; the `prompt_length`, the `length` of both together, `number`."""
    return RecordFormat(
        [
            Field("tokens", token_dtype, (sequence_length + 1,)),
            Field("prompt_length", "int32", ()),
            Field("length", "int32", ()),
            Field("number", "int32", ()),
        ]
    )


def preference_format(sequence_length: int, token_dtype: str) -> RecordFormat:
    """A stored row: `tokens` [T], the chosen answer behind its prompt and then the rejected one behind its
    own; `is_target`, one bit a token that says whether it is of an answer; the `length` of both together, the
    `chosen_length`, `number`."""
    return RecordFormat(
        [
            Field("tokens", token_dtype, (sequence_length,)),
            Field("is_target", "uint8", ((sequence_length + 7) // 8,)),
            Field("length", "int32", ()),
            Field("chosen_length", "int32", ()),
            Field("number", "int32", ()),
        ]
    )


def match_format(sequence_length: int, token_dtype: str) -> RecordFormat:
    """A stored row: `tokens` [T], the first text and then the second; the `length` of both, the
    `first_length`, `number`."""
    return RecordFormat(
        [
            Field("tokens", token_dtype, (sequence_length,)),
            Field("length", "int32", ()),
            Field("first_length", "int32", ()),
            Field("number", "int32", ()),
        ]
    )
