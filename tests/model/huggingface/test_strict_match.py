"""A file may hold more than a model's own tensors; test_directory.py tests what it must not hold."""

import pytest
from safetensors.numpy import save_file

from flaxmill.model import load_huggingface
from flaxmill.train.parity.small_models import make_reference

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["bert_pretraining", "roberta", "modernbert"])
@pytest.mark.parametrize("head", ["none", "classification", "qa"])
def test_a_file_with_all_that_torch_holds_serves_another_head(tmp_path, name, head):
    """Old files keep the decoder beside the embedding that it is tied to."""
    states = make_reference(name, tmp_path).state_dict()
    copies = {key: value.numpy().copy() for key, value in states.items() if value.is_floating_point()}
    (tmp_path / "model.safetensors").unlink()
    save_file(copies, tmp_path / "model.safetensors", {"format": "pt"})
    assert any(key.endswith("decoder.weight") for key in copies)
    assert load_huggingface(tmp_path, head=head)[0].head == head
