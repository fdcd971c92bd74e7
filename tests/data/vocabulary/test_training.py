"""A trained tokenizer serves the objectives that its special tokens allow, from preparation to batch."""

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.tokenization import canonical_json
from flaxmill.data.vocabulary.training import check_size

TEXT = "The river runs to the sea. It is wide, and the sea is wide.\n\n"


@pytest.mark.parametrize("objective", ["causal", "mlm", "mlm_nsp", "hybrid", "prefix_lm", "span_corruption"])
def test_unigram_prepares_every_objective_of_text_and_keeps_its_ids(objective, tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"{TEXT[:-1]}Line {n}.\n\n" for n in range(60)))
    config = DataConfig(
        files=(str(tmp_path / "text.txt"),),
        documents="blank_lines",
        tokenizer="unigram",
        vocab_size=360,
        sequence_length=32,
    )
    made = [
        prepare(config, objective, cache=tmp_path / f"cache-{name}", log=lambda line: None) for name in "ab"
    ]
    assert made[0].fingerprint == made[1].fingerprint
    assert canonical_json(made[0].tokenizer) == canonical_json(made[1].tokenizer)
    assert made[0].statistics["train"]["num_unknown"] == 0


def test_a_size_too_small_names_the_fields_that_it_was_given_by():
    check_size(258, "bpe", "vocab_size", "kind")
    with pytest.raises(ValueError, match=r"^vocab_size=257 is too small for kind=bpe, .* use 258 or more$"):
        check_size(257, "bpe", "vocab_size", "kind")
