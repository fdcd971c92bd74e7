"""Data settings that no run could use are refused by name."""

import pytest

from flaxmill.data.config import DataConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("documents", "lines"),
        ("embedded", "everything"),
        ("tokenizer", ""),
        ("valid_fraction", 0.0),
        ("valid_fraction", 1.0),
        ("masking", "words"),
        ("pair_task", "sop"),
        ("fim_rate", 1.5),
        ("packing", "fit"),
        ("sentences", "German"),
        ("mask_rate", 0.0),
        ("mask_rate", 1.0),
        ("causal_fraction", 1.5),
        ("short_pair_probability", -0.1),
        ("vocab_size", 0),
        ("sequence_length", 4),
        ("pair_copies", 0),
        ("seed", -1),
        ("valid_files", ("held_out.txt",)),
        ("files", "text.txt"),
        ("text_column", ""),
        ("pair_column", ""),
        ("label_type", "float"),
        ("labels", "yes"),
        ("class_weights", (1.0, -1.0)),
        ("class_weights", (float("nan"), 1.0)),
        ("class_weights", (float("inf"), 1.0)),
        ("labels", ("yes", "no", "yes")),
        ("target_length", 1),
        ("stride", -1),
    ],
)
def test_an_unusable_value_is_refused_by_name_in_one_line(field, value):
    with pytest.raises(ValueError, match=rf"^data\.{field}=") as caught:
        DataConfig(**{field: value})
    assert "\n" not in str(caught.value)


def test_labels_of_numbers_are_refused():
    with pytest.raises(ValueError, match=r"^data\.labels=\('a', 'b'\) are categories; use"):
        DataConfig(label_type="number", labels=("a", "b"))


def test_weights_of_labels_need_one_label_an_example():
    with pytest.raises(
        ValueError, match=r"^data\.class_weights=\(1\.0, 2\.0\) weighs examples by their only label"
    ):
        DataConfig(label_type="multi_label", class_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"^data\.class_weights=\(1\.0, 2\.0\) weighs categories, and data"):
        DataConfig(label_type="number", class_weights=(1.0, 2.0))


def test_the_defaults_are_those_of_the_smallest_config():
    config = DataConfig()
    assert (config.tokenizer, config.vocab_size, config.sequence_length) == ("bpe", 2048, 128)
