"""T5 1.0 and 1.1 (Raffel et al. 2020; Shazeer 2020): config.json and tensors as in transformers' T5 class."""

from collections.abc import Mapping
from typing import Any

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.settings import (
    ABANDONED,
    DRAWING,
    DROPOUTS,
    Settings,
    depth,
    fill_in,
    flag,
    number,
    shown,
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
            "vocab_size": whole(32128),
            "d_model": whole(512),
            "d_kv": whole(64),
            "d_ff": whole(2048),
            "num_layers": depth(6),
            "num_decoder_layers": depth(None),
            "num_heads": whole(8),
            "relative_attention_num_buckets": whole(32),
            "relative_attention_max_distance": whole(128),
            "dropout_rate": number(0.1),
            "layer_norm_epsilon": number(1e-6),
            "feed_forward_proj": word("relu"),
            "dense_act_fn": word(None),
            "is_gated_act": flag(None),
            "scale_decoder_outputs": flag(None),
            "decoder_start_token_id": whole(None, least=0),
            "pad_token_id": token(0),
            "bos_token_id": token(None),
            "eos_token_id": token(1),
            "tie_word_embeddings": flag(None),
        },
        only={"is_encoder_decoder": True},
        unused={
            DROPOUTS: ("classifier_dropout",),
            DRAWING: ("initializer_factor",),
            ABANDONED: ("n_positions",),
        },
        aliases={
            "hidden_size": "d_model",
            "num_attention_heads": "num_heads",
            "num_hidden_layers": "num_layers",
            "head_dim": "d_kv",
        },
        depths={"num_layers": "encoder.block.", "num_decoder_layers": "decoder.block."},
    )
)
_COPIES = {
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
}


def _read_config(values: Mapping[str, Any], head: Head, names: frozenset[str]) -> ModelConfig:
    values = fill_in(_SETTINGS, values)
    is_gated, activation = _read_mlp(values)
    scales = _scales_head(values)
    num_layers, start_id = values["num_layers"], values["decoder_start_token_id"]
    ids = read_token_ids(values)
    return ModelConfig(
        family="t5",
        head=head,
        causal=True,
        vocab_size=values["vocab_size"],
        num_layers=values["num_decoder_layers"] or num_layers,
        encoder_layers=num_layers,
        embed_dim=values["d_model"],
        num_heads=values["num_heads"],
        head_dim=values["d_kv"],
        mlp_dim=values["d_ff"],
        norm="rmsnorm",
        norm_epsilon=values["layer_norm_epsilon"],
        positions="relative",
        relative_buckets=values["relative_attention_num_buckets"],
        relative_max_distance=values["relative_attention_max_distance"],
        attention_scale=1.0,
        activation=activation,
        gated_mlp=is_gated,
        use_bias=False,
        tie_embeddings=_is_tied(values, names, scales),
        scale_head=scales,
        decoder_start_id=ids["pad_id"] if start_id is None else start_id,
        initializer="normal",
        dropout=values["dropout_rate"],
        **ids,
    )


def _read_mlp(values: Mapping[str, Any]) -> tuple[bool, Any]:
    """Whether gated, and the activation: "relu", "gated-silu"; only "gated-gelu" means GELU's tanh form.

    transformers 5 also writes each of the two under its own key, which then takes precedence.
    """
    spelled = values["feed_forward_proj"]
    parts = spelled.split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise ValueError(
            f"config.json: feed_forward_proj={shown(spelled)} must be an activation, or 'gated-' before one"
        )
    is_gated = parts[0] == "gated" if values["is_gated_act"] is None else values["is_gated_act"]
    key = "feed_forward_proj" if values["dense_act_fn"] is None else "dense_act_fn"
    name = values["dense_act_fn"] or ("gelu_new" if spelled == "gated-gelu" else parts[-1])
    return is_gated, read_activation({key: name}, key)


def _scales_head(values: Mapping[str, Any]) -> bool:
    """T5 1.1 does not scale: files say so by tie_word_embeddings, files of transformers 5 by another key."""
    own = values["scale_decoder_outputs"]
    return values["tie_word_embeddings"] is not False if own is None else own


def _is_tied(values: Mapping[str, Any], names: frozenset[str], scales: bool) -> bool:
    """The tensors decide, since transformers 5 writes tie_word_embeddings=true for every T5."""
    if not names:
        return scales and values["tie_word_embeddings"] is not False
    # Old files of T5 1.0 hold the shared table under each of its names, or under any one of them.
    holds_copies = bool(names & set(_COPIES)) or "shared.weight" not in names
    return "lm_head.weight" not in names or (scales and holds_copies)


def _write_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.embed_dim,
        "d_kv": config.dim_per_head,
        "d_ff": config.hidden_dim,
        "num_layers": config.encoder_layers or 1,  # the family has no decoder without an encoder
        "num_decoder_layers": config.num_layers,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "dropout_rate": config.dropout,
        "layer_norm_epsilon": config.norm_epsilon,
        "feed_forward_proj": _write_mlp(config),
        "is_encoder_decoder": True,
        "tie_word_embeddings": config.tie_embeddings,
        "scale_decoder_outputs": config.scale_head,
        "decoder_start_token_id": config.decoder_start_id,
        **write_token_ids(config),
    }


def _write_mlp(config: ModelConfig) -> str:
    if not config.gated_mlp:
        return write_activation(config, tanh="gelu_new")
    gelus = {"gelu_tanh": "gated-gelu", "gelu": "gated-gelu_python"}
    return gelus.get(config.activation, f"gated-{config.activation}")


def _tensors(config: ModelConfig) -> TensorMap:
    head = {} if config.tie_embeddings else {"lm_head/kernel": StoredTensor("lm_head.weight")}
    return {
        "embed/tokens/embedding": StoredTensor("shared.weight"),
        **_stack_tensors("encoder/", "encoder", config, mlp_place=1),
        **_stack_tensors("", "decoder", config, mlp_place=2),
        **_attention_tensors("layers/cross_attention", "decoder.block.{layer}.layer.1.EncDecAttention"),
        **norm_tensors("layers/cross_attention_norm", "decoder.block.{layer}.layer.1.layer_norm", False),
        **head,
    }


def _stack_tensors(path: str, name: str, config: ModelConfig, mlp_place: int) -> TensorMap:
    """The tensors of the encoder, or of the decoder without its cross-attention.

    Args:
      mlp_place: a block's MLP is its 2nd part (1) or its 3rd (2).
    """
    layer = f"{name}.block.{{layer}}.layer"
    mlp = f"{layer}.{mlp_place}.DenseReluDense"
    inner = {"up": "wi_1", "gate": "wi_0"} if config.gated_mlp else {"up": "wi"}
    bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    tensors = {
        f"{path}relative_bias/embedding": StoredTensor(bias),  # all blocks use the first block's
        **norm_tensors(f"{path}layers/attention_norm", f"{layer}.0.layer_norm", False),
        **_attention_tensors(f"{path}layers/attention", f"{layer}.0.SelfAttention"),
        **norm_tensors(f"{path}layers/mlp_norm", f"{layer}.{mlp_place}.layer_norm", False),
        **linear_tensors(f"{path}layers/mlp/down", f"{mlp}.wo", False),
        **norm_tensors(f"{path}final_norm", f"{name}.final_layer_norm", False),
    }
    for ours, theirs in inner.items():
        tensors |= linear_tensors(f"{path}layers/mlp/{ours}", f"{mlp}.{theirs}", False)
    return tensors


def _attention_tensors(path: str, name: str) -> TensorMap:
    places = {"query": "q", "key": "k", "value": "v", "out": "o"}
    tensors: TensorMap = {}
    for ours, theirs in places.items():
        tensors |= linear_tensors(f"{path}/{ours}", f"{name}.{theirs}", False)
    return tensors


def _tied(config: ModelConfig) -> Mapping[str, str]:
    return _COPIES | ({"lm_head.weight": "shared.weight"} if config.tie_embeddings else {})


DESCRIPTION = FamilyDescription(
    model_type="t5",
    architectures={"lm": "T5ForConditionalGeneration"},
    read_config=_read_config,
    write_config=_write_config,
    settings=_SETTINGS,
    tensors=_tensors,
    # Old files hold a bias of the cross-attention, which has no positions to tell apart.
    ignored=(r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",),
    tied=_tied,
)
