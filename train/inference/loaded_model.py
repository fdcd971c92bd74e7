"""The weights of a run or of a Hugging Face directory, with the tokenizer beside them."""

from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from flaxmill.data.tokenization import Tokenizer
from flaxmill.data.tokenizer.reading import LACKS_TOKENIZER, find_tokenizer
from flaxmill.model.config import ModelConfig
from flaxmill.model.fields import Head
from flaxmill.model.huggingface.directory import load_huggingface
from flaxmill.model.params import Params
from flaxmill.sharding.mesh import MeshConfig, make_mesh
from flaxmill.train.caches import cache_directory
from flaxmill.train.compilation.settings import set_up_compilation
from flaxmill.train.experiment import Experiment, describe_changed_objective
from flaxmill.train.jax_environment import set_float32_products
from flaxmill.train.metrics.progress import warn
from flaxmill.train.run.directory import TOKENIZER_FILE, read_trained_config
from flaxmill.train.run.model_sources import check_model_source
from flaxmill.train.run.restoring import load_params
from flaxmill.train.run.source import is_huggingface


class LoadedModel(NamedTuple):
    """A model that computes."""

    source: Path
    config: ModelConfig
    params: Params
    mesh: Mesh
    tokenizer: Tokenizer
    experiment: Experiment | None
    """The run's; None for a Hugging Face directory."""


def load_model(
    source: Path, mesh_config: MeshConfig | None = None, *, head: Head | None = None
) -> LoadedModel:
    """The weights of a run, its best checkpoint or else its newest, or those of a Hugging Face directory.

    Args:
      mesh_config: devices to compute on; None: one.
      head: read a Hugging Face directory with this head; "none": what comes before any head. None: the head
        that it names.

    Raises:
      ValueError: `source` is neither, has no tokenizer, or one that does not fit the model.
    """
    check_model_source(source)
    set_up_compilation(cache_directory())
    mesh = make_mesh(mesh_config or MeshConfig(data=1))
    experiment = None
    if is_huggingface(source):
        with jax.set_mesh(mesh):
            config, params = load_huggingface(source, head=head, mesh=mesh)
        tokenizer = _load_tokenizer(find_tokenizer(source), source)
    else:
        experiment = read_trained_config(source)
        if changed := describe_changed_objective(experiment):
            warn(changed)
        config = experiment.model
        tokenizer = _load_tokenizer(source / TOKENIZER_FILE, source, is_trusted=True)
        params = load_params(source, experiment, mesh)[0]
    set_float32_products(config.dtype)
    _check_vocabulary(config, tokenizer, source)
    return LoadedModel(source, config, params, mesh, tokenizer, experiment)


def _load_tokenizer(file: Path | None, source: Path, *, is_trusted: bool = False) -> Tokenizer:
    if file is None or not file.is_file():
        raise ValueError(f"{source} {LACKS_TOKENIZER}; put the model's tokenizer there")
    return Tokenizer.load(file, is_trusted=is_trusted)


def _check_vocabulary(config: ModelConfig, tokenizer: Tokenizer, source: Path) -> None:
    assert config.vocab_size is not None
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer of {source} has {tokenizer.vocab_size} ids but the model's vocabulary has "
            f"{config.vocab_size}; put there the tokenizer that the model was trained with"
        )
