"""What a Transformer is made of: one frozen dataclass that describes every family."""

import dataclasses
from dataclasses import dataclass

from flaxmill.model.config_checks import check_model
from flaxmill.model.fields import ModelFields


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelFields):
    """One Transformer. Fields left `None` follow from the data, the objective or another field."""

    def __post_init__(self) -> None:
        check_model(self)
        if self.encoder_layers is not None:
            encoder_config(self)  # checks the encoder's own sizes: JAX would refuse them without their names


def encoder_config(config: ModelConfig) -> ModelConfig:
    """The config of an encoder-decoder's encoder: the decoder's fields, with the encoder's own sizes."""
    assert config.encoder_layers is not None
    return dataclasses.replace(
        config,
        num_layers=config.encoder_layers,
        num_heads=config.encoder_num_heads or config.num_heads,
        mlp_dim=config.encoder_mlp_dim or config.hidden_dim,
        causal=False,
        bidirectional_prefix=None,
        head="none",
        scale_head=False,
        head_bias=False,
        encoder_layers=None,
    )
