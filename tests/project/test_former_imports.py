"""Experiment files and scripts that were written against earlier module paths go on working."""

import pytest

from flaxmill import train as facade
from flaxmill.train.named_configs import load_config

FORMER = """
from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.best import BestConfig
from flaxmill.train.checkpoint import CheckpointConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer import OptimizerConfig
from flaxmill.train.spikes import SpikeConfig

config = Experiment(
    model=ModelConfig(num_layers=1),
    data=DataConfig(sequence_length=32),
    mesh=MeshConfig(),
    best=BestConfig(),
    checkpoint=CheckpointConfig(every=5),
    optimizer=OptimizerConfig(),
    spike=SpikeConfig(),
)
"""


def test_a_config_file_of_before_is_one_of_now(tmp_path):
    (path := tmp_path / "mine.py").write_text(FORMER)
    now = facade.Experiment(
        model=facade.ModelConfig(num_layers=1),
        data=facade.DataConfig(sequence_length=32),
        checkpoint=facade.CheckpointConfig(every=5),
    )
    assert load_config(str(path)) == now


@pytest.mark.parametrize("name", facade.__all__)
def test_the_facade_has_every_name_that_it_lists(name):
    assert getattr(facade, name).__name__ == name


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        facade.Trainer  # noqa: B018


def test_scripts_find_what_the_pages_name():
    from flaxmill.configs.gpt_tiny import config
    from flaxmill.data.tokenization import Tokenizer
    from flaxmill.model import (
        GenerationConfig,
        Generator,
        apply,
        load_huggingface,
        merge_lora,
        save_huggingface,
    )
    from flaxmill.train import Experiment, train

    assert isinstance(config, Experiment)
    named = (
        Tokenizer,
        GenerationConfig,
        Generator,
        apply,
        load_huggingface,
        merge_lora,
        save_huggingface,
        train,
    )
    assert all(map(callable, named))
