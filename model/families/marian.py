"""The original encoder-decoder Transformer (Vaswani et al. 2017), stored as Marian's models are."""

from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.settings import (
    DROPOUTS,
    Settings,
    depth,
    fill_in,
    flag,
    number,
    refuse,
    token,
    whole,
    with_common,
    word,
)
from flaxmill.model.config_json.values import (
    read_activation,
    read_token_ids,
    write_activation,
    write_token_ids,
)
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.families.stored_tensors import StoredTensor, TensorMap
from flaxmill.model.families.tensor_names import linear_tensors, norm_tensors
from flaxmill.model.fields import Head

_SETTINGS = with_common(
    Settings(
        read={
            "vocab_size": whole(58101),
            "decoder_vocab_size": whole(None),
            "max_position_embeddings": whole(1024),
            "encoder_layers": depth(12),
            "encoder_ffn_dim": whole(4096),
            "encoder_attention_heads": whole(16),
            "decoder_layers": depth(12),
            "decoder_ffn_dim": whole(4096),
            "decoder_attention_heads": whole(16),
            "activation_function": word("gelu"),
            "d_model": whole(1024),
            "dropout": number(0.1),
            "attention_dropout": number(0.0),
            "init_std": number(0.02),
            "decoder_start_token_id": whole(58100, or_null=True, least=0),
            "scale_embedding": flag(False),
            "pad_token_id": token(58100),
            "bos_token_id": token(None),
            "eos_token_id": token(0),
        },
        only={
            "is_encoder_decoder": True,
            "share_encoder_decoder_embeddings": True,
            "tie_word_embeddings": True,
            "static_position_embeddings": True,
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
            "activation_dropout": 0.0,
            "normalize_before": False,
            "normalize_embedding": False,
            "add_bias_logits": False,
            "add_final_layer_norm": False,
        },
        unused={
            DROPOUTS: ("classif_dropout", "classifier_dropout"),
            "for learned positions only": ("extra_pos_embeddings",),
        },
        aliases={
            "hidden_size": "d_model",
            "num_attention_heads": "encoder_attention_heads",
            "num_hidden_layers": "encoder_layers",
        },
        depths={"encoder_layers": "encoder.layers.", "decoder_layers": "decoder.layers."},
    )
)


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = fill_in(_SETTINGS, values)
    refuse(values, {"decoder_vocab_size": values["vocab_size"]} if values["decoder_vocab_size"] else {})
    ids = read_token_ids(values)
    return ModelConfig(
        family="marian",
        head=head,
        causal=True,
        vocab_size=values["vocab_size"],
        max_positions=values["max_position_embeddings"],
        num_layers=values["decoder_layers"],
        embed_dim=values["d_model"],
        num_heads=values["decoder_attention_heads"],
        mlp_dim=values["decoder_ffn_dim"],
        encoder_layers=values["encoder_layers"],
        encoder_num_heads=values["encoder_attention_heads"],
        encoder_mlp_dim=values["encoder_ffn_dim"],
        norm_position="post",
        positions="sinusoidal",
        scale_embeddings=values["scale_embedding"],
        activation=read_activation(values, "activation_function"),
        head_bias=True,
        decoder_start_id=values["decoder_start_token_id"],
        initializer="normal",
        initializer_std=values["init_std"],
        dropout=values["dropout"],
        attention_dropout=values["attention_dropout"],
        **ids,
    )


def _write_config(config: ModelConfig) -> dict[str, Any]:
    # transformers needs a token to start from, and Marian's models start from the padding token.
    start_id = config.pad_id or 0 if config.decoder_start_id is None else config.decoder_start_id
    return {
        "vocab_size": config.vocab_size,
        "decoder_vocab_size": config.vocab_size,
        **({} if config.max_positions is None else {"max_position_embeddings": config.max_positions}),
        "encoder_layers": config.encoder_layers or 1,  # the family has no decoder without an encoder
        "encoder_ffn_dim": config.encoder_mlp_dim or config.hidden_dim,
        "encoder_attention_heads": config.encoder_num_heads or config.num_heads,
        "decoder_layers": config.num_layers,
        "decoder_ffn_dim": config.hidden_dim,
        "decoder_attention_heads": config.num_heads,
        "is_encoder_decoder": True,
        "activation_function": "swish" if config.activation == "silu" else write_activation(config),
        "d_model": config.embed_dim,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout_rate,
        "init_std": config.initializer_std,
        "scale_embedding": config.scales_embeddings,
        "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
        "tie_word_embeddings": True,
        "decoder_start_token_id": start_id,
        "forced_eos_token_id": config.eos_id,
        **write_token_ids(config),
    }


def _tensors(config: ModelConfig) -> TensorMap:
    decoder = "model.decoder.layers.{layer}"
    return {
        "embed/tokens/embedding": StoredTensor("model.shared.weight"),
        **_layer_tensors("encoder/layers", "model.encoder.layers.{layer}"),
        **_layer_tensors("layers", decoder),
        **_attention_tensors("layers/cross_attention", f"{decoder}.encoder_attn"),
        **norm_tensors("layers/cross_attention_norm", f"{decoder}.encoder_attn_layer_norm"),
        **({"lm_head/bias": StoredTensor("final_logits_bias", as_row=True)} if config.head_bias else {}),
    }


def _layer_tensors(path: str, name: str) -> TensorMap:
    """The tensors of the encoder's layers, or of the decoder's without their cross-attention."""
    return {
        **_attention_tensors(f"{path}/attention", f"{name}.self_attn"),
        **norm_tensors(f"{path}/attention_norm", f"{name}.self_attn_layer_norm"),
        **linear_tensors(f"{path}/mlp/up", f"{name}.fc1"),
        **linear_tensors(f"{path}/mlp/down", f"{name}.fc2"),
        **norm_tensors(f"{path}/mlp_norm", f"{name}.final_layer_norm"),
    }


def _attention_tensors(path: str, name: str) -> TensorMap:
    places = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    tensors: TensorMap = {}
    for ours, theirs in places.items():
        tensors |= linear_tensors(f"{path}/{ours}", f"{name}.{theirs}")
    return tensors


def _tied(config: ModelConfig) -> Mapping[str, str]:
    copies = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    return dict.fromkeys(copies, "model.shared.weight")


DESCRIPTION = FamilyDescription(
    model_type="marian",
    architectures={"lm": "MarianMTModel"},
    read_config=_read_config,
    write_config=_write_config,
    settings=_SETTINGS,
    tensors=_tensors,
    # Sinusoidal tables, which are computed.
    ignored=(r"^model\.(encoder|decoder)\.embed_positions\.weight$",),
    buffers=("final_logits_bias",),
    tied=_tied,
)
