"""The example in docs/python.md runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
from small_text_models import save_model

pytest.importorskip("torch")

PAGE = Path(__file__).parents[3] / "docs" / "python.md"


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    save_model(tmp_path / "bert-dir", "bert", max_position_embeddings=70)
    save_model(tmp_path / "gpt-dir", "gpt2", n_positions=70)
    save_model(tmp_path / "classifier-dir", "bert_classification", max_position_embeddings=70)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(example, names)
    assert names["vectors"].dtype == np.float32
    assert names["similarity"].shape == (2, 2)
    assert len(names["texts"]) == 2
    assert len(names["score"].tokens) == len(names["score"].log_probabilities)
    assert "LABEL_" in capsys.readouterr().out
