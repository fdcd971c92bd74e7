"""The keys of config.json of LLaMA and of the families that are read as it is."""

from typing import Any, Literal

from flaxmill.model.config_json.rope import ROPE_SETTINGS
from flaxmill.model.config_json.settings import (
    A_DECODER,
    ABANDONED,
    SPEED,
    Setting,
    Settings,
    depth,
    flag,
    number,
    other,
    token,
    whole,
    with_common,
    word,
)
from flaxmill.model.families.llama_experts import EXPERT_SETTINGS

LlamaLike = Literal["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"]

_SHARED = {
    "vocab_size": whole(32000),
    "hidden_size": whole(4096),
    "num_hidden_layers": depth(32),
    "num_attention_heads": whole(32),
    "head_dim": whole(None),
    "rope_theta": number(None),
    **ROPE_SETTINGS,
    "rms_norm_eps": number(1e-6),
    "hidden_act": word("silu"),
    "initializer_range": number(0.02),
    "attention_dropout": number(0.0),
    "pad_token_id": token(None),
    "bos_token_id": token(None),
    "eos_token_id": token(None),
    "tie_word_embeddings": flag(False),
}
_LLAMA = _SHARED | {
    "max_position_embeddings": whole(2048),
    "intermediate_size": whole(11008),
    "num_key_value_heads": whole(None),
    "attention_bias": flag(False),
    "mlp_bias": flag(False),
    "bos_token_id": token(1),
    "eos_token_id": token(2),
}
_MISTRAL = _SHARED | {
    "max_position_embeddings": whole(131072),
    "intermediate_size": whole(14336),
    "num_key_value_heads": whole(8, or_null=True),
    "sliding_window": whole(4096, or_null=True),
    "bos_token_id": token(1),
    "eos_token_id": token(2),
}
_QWEN2 = _SHARED | {
    "vocab_size": whole(151936),
    "max_position_embeddings": whole(32768),
    "intermediate_size": whole(22016),
    "num_key_value_heads": whole(32, or_null=True),
    "use_sliding_window": flag(False),
    "sliding_window": whole(4096, or_null=True),
    "max_window_layers": whole(28, least=0),
    "layer_types": other(),
}
_QWEN3 = _QWEN2 | {"head_dim": whole(128), "attention_bias": flag(False)}
_MIXTRAL = (
    _MISTRAL
    | EXPERT_SETTINGS["mixtral"]
    | {
        "rope_theta": number(1_000_000.0),
        "rms_norm_eps": number(1e-5),
        "sliding_window": whole(None),
    }
)
_QWEN3_MOE = (
    _SHARED
    | EXPERT_SETTINGS["qwen3_moe"]
    | {
        "vocab_size": whole(151936),
        "hidden_size": whole(2048),
        "intermediate_size": whole(6144),
        "num_hidden_layers": depth(24),
        "num_key_value_heads": whole(4, or_null=True),
        "max_position_embeddings": whole(32768),
        "attention_bias": flag(False),
        "use_sliding_window": flag(False),
        "sliding_window": whole(4096, or_null=True),
    }
)


def _settings(read: dict[str, Setting], *for_speed: str, **only: Any) -> Settings:
    return with_common(
        Settings(
            read=read,
            only={"partial_rotary_factor": 1.0, **only},
            unused={
                SPEED: for_speed,
                ABANDONED: ("max_sequence_length",),
                A_DECODER: ("is_decoder",),
            },
            depths={"num_hidden_layers": "layers."},
        )
    )


def _with_experts(settings: Settings, count: str, other_name: str) -> Settings:
    """`count`: the key of the number of experts; transformers takes it by another name too."""
    return settings._replace(
        depths={**settings.depths, count: "experts."}, aliases={**settings.aliases, other_name: count}
    )


SETTINGS: dict[LlamaLike, Settings] = {
    "llama": _settings(_LLAMA, "pretraining_tp"),
    "mistral": _settings(_MISTRAL),
    "qwen2": _settings(_QWEN2),
    "qwen3": _settings(_QWEN3),
    "mixtral": _with_experts(
        _settings(_MIXTRAL, router_jitter_noise=0.0), "num_local_experts", "num_experts"
    ),
    "qwen3_moe": _with_experts(_settings(_QWEN3_MOE), "num_experts", "num_local_experts"),
}
