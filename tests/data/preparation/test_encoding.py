"""What is remembered while documents are encoded shows nowhere in a dataset."""

import hashlib
from pathlib import Path

import pytest

from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


@pytest.mark.parametrize(
    ("objective", "fields"),
    [
        ("causal", {}),
        ("causal", {"tokenizer": "bytes", "packing": "first_fit"}),
        ("mlm", {"packing": "best_fit", "markup": True}),
        ("mlm", {"packing": "full_sentences"}),
        ("mlm_nsp", {"tokenizer": "wordpiece", "pair_copies": 2}),
    ],
)
def test_remembered_words_change_no_byte(corpus, tmp_path, monkeypatch, objective, fields):
    config = DataConfig(files=(str(corpus),), documents="blank_lines", vocab_size=400, **fields)
    quietly: dict = dict(log=lambda line: None)
    remembered = prepare(config, objective, cache=tmp_path / "remembered", **quietly)
    monkeypatch.setattr("flaxmill.data.tokenizer.word_memory.find_cut", lambda inner: None)
    encoded_anew = prepare(config, objective, cache=tmp_path / "anew", **quietly)
    assert contents(remembered.directory) == contents(encoded_anew.directory)
