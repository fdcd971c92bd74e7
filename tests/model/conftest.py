"""Small models of transformers beside ours, and what survives a file."""

import functools
import json
import logging.handlers
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxmill.model.config import ModelConfig

Reference = tuple[Path, Any]
MakeReference = Callable[..., Reference]


@pytest.fixture(scope="session")
def torch_reference(tmp_path_factory: pytest.TempPathFactory) -> MakeReference:
    """Makes (directory, torch model) of a small transformers model, once for each set of arguments."""
    import torch

    from flaxmill.train.parity.small_models import SMALL, make_reference

    torch.set_num_threads(1)
    made: dict[str, Reference] = {}

    def make(name: str, architecture: str | None = None, **settings: Any) -> Reference:
        """SMALL[name], with another class of transformers or other settings where they are given."""
        key = repr((name, architecture, settings))
        if key not in made:
            base = SMALL[name]
            variant = base._replace(
                architecture=architecture or base.architecture, settings={**base.settings, **settings}
            )
            directory = tmp_path_factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(SMALL, key, variant)
                made[key] = directory, make_reference(key, directory)
        return made[key]

    return make


@pytest.fixture(scope="session")
def output_differences() -> Callable[[Reference], dict[str, float]]:
    """Largest absolute difference of each output from torch's, over padded and packed rows."""
    from flaxmill.model.huggingface.directory import load_huggingface
    from flaxmill.train.parity.batches import make_parity_batch, variants
    from flaxmill.train.parity.flaxmill_side import Flaxmill
    from flaxmill.train.parity.torch_side import measure_reference

    def measure(reference: Reference) -> dict[str, float]:
        directory, model = reference
        ours = Flaxmill(*load_huggingface(directory))
        differences = {}
        for variant in variants(ours.config):
            batch = make_parity_batch(ours.config, variant, seed=0)
            theirs = measure_reference(model, batch, gradients=False).outputs
            mine = ours.outputs(batch)
            assert mine.keys() == theirs.keys()
            for name, value in theirs.items():
                differences[f"{variant} {name}"] = float(abs(mine[name] - value).max())
        return differences

    return measure


@pytest.fixture(scope="session")
def export_again() -> Callable[[Reference, Path], tuple[dict[str, Any], dict[str, Any]]]:
    """Load a reference, save it elsewhere, and compare what transformers loads there with the original."""
    import numpy as np
    import torch
    import transformers
    from safetensors.numpy import load_file

    from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface

    def export(reference: Reference, directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """The tensors of the original file and of ours."""
        original, model = reference
        save_huggingface(directory, *load_huggingface(original))
        transformers.logging.set_verbosity_warning()  # comparisons with torch turn it off
        complaints = logging.handlers.BufferingHandler(capacity=100)
        complaints.setLevel(logging.WARNING)
        logging.getLogger("transformers").addHandler(complaints)
        again, info = type(model).from_pretrained(
            directory,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
        logging.getLogger("transformers").removeHandler(complaints)
        assert not any(info.values()), info
        assert [record.getMessage() for record in complaints.buffer] == []
        tokens = torch.from_numpy(np.random.default_rng(0).integers(1, 101, (2, 17)))
        inputs = {"input_ids": tokens} | (
            {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
        )
        with torch.no_grad():
            before, after = model(**inputs).to_tuple(), again.eval()(**inputs).to_tuple()
        assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True) if torch.is_tensor(x))
        assert type(transformers.AutoConfig.from_pretrained(directory)) is type(model.config)
        assert again.config.architectures == [type(model).__name__]
        return load_file(original / "model.safetensors"), load_file(directory / "model.safetensors")

    return export


@pytest.fixture(scope="session")
def read_settings() -> Callable[[Path], dict[str, Any]]:
    """Reads a directory's config.json, without the version of transformers that wrote it."""

    def read(directory: Path) -> dict[str, Any]:
        settings = json.loads((directory / "config.json").read_text())
        del settings["transformers_version"]
        return settings

    return read


@pytest.fixture(scope="session")
def round_trip_own() -> Callable[[ModelConfig, Path], ModelConfig]:
    """Save random parameters, load them, and check that both are equal bit for bit."""
    import jax
    import numpy as np

    from flaxmill.model.functional import abstract_params, logical_axes
    from flaxmill.model.huggingface.directory import load_huggingface, save_huggingface

    random = np.random.default_rng(0)

    def draw(leaf: Any, axes: tuple[str | None, ...], vocab_size: int) -> np.ndarray:
        values = random.standard_normal(leaf.shape, np.float32)
        if "vocab" in axes:  # files do not hold the padding rows, which are zero
            values[vocab_size:] = 0
        return values

    def round_trip(config: ModelConfig, directory: Path) -> ModelConfig:
        """The config that was read."""
        assert config.vocab_size is not None
        draw_one = functools.partial(draw, vocab_size=config.vocab_size)
        params = jax.tree.map(draw_one, abstract_params(config), logical_axes(config))
        save_huggingface(directory, config, params)
        found, loaded = load_huggingface(directory)
        jax.tree.map(np.testing.assert_array_equal, loaded, params)
        return found

    return round_trip
