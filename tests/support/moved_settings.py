"""For each family a small transformers model, and another value for each key that is read."""

from typing import Any, NamedTuple

from flaxmill.train.parity.small_models import SMALL


class Family(NamedTuple):
    """The model to begin with, and other values of its settings; a dict of keys moves several at once."""

    small: str
    architecture: str
    moved: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        return dict(SMALL[self.small].settings)


_IDS = {"pad_token_id": 3, "bos_token_id": 4, "eos_token_id": 5}
_CLASSES = {"num_labels": 4, "problem_type": "multi_label_classification"}
_NAMES = ["down", "up", "left", "right"]
_ID2LABEL = {
    "id2label": dict(zip("0123", _NAMES, strict=True)),
    "label2id": {name: number for number, name in enumerate(_NAMES)},
}
_SHARED = _IDS | _CLASSES | {"id2label": _ID2LABEL, "vocab_size": 103}
_BERT = _SHARED | {
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 50,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.3,
    "attention_probs_dropout_prob": 0.2,
    "max_position_embeddings": 44,
    "type_vocab_size": 3,
    "initializer_range": 0.05,
    "layer_norm_eps": 1e-3,
    "tie_word_embeddings": False,
}
_YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 10}
_LLAMA = _SHARED | {
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": {"num_attention_heads": 4, "hidden_size": 60},
    "num_key_value_heads": 1,
    "head_dim": 10,
    "intermediate_size": 50,
    "max_position_embeddings": 44,
    "rope_theta": {"rope_theta": 100.0, "rope_parameters": None},
    "rope_parameters": _YARN,
    "rope_scaling": {"rope_scaling": {"type": "linear", "factor": 3.0}},
    "original_max_position_embeddings": {
        "original_max_position_embeddings": 14,
        "rope_parameters": _YARN,
    },
    "rms_norm_eps": 1e-3,
    "hidden_act": "gelu",
    "initializer_range": 0.05,
    "attention_dropout": 0.2,
    "tie_word_embeddings": True,
}
_QWEN3 = {"attention_bias": True, "tie_word_embeddings": False}
_ROUTED = {
    "num_experts_per_tok": 1,
    "output_router_logits": False,
    "router_aux_loss_coef": {"router_aux_loss_coef": 0.2, "output_router_logits": True},
}
_MIXTRAL = {"num_local_experts": 4, "sliding_window": 7, "rms_norm_eps": 1e-3}
_QWEN3_MOE = {
    "num_experts": 5,
    "moe_intermediate_size": 18,
    "norm_topk_prob": False,
    "decoder_sparse_step": {"decoder_sparse_step": 2, "num_hidden_layers": 2},
    "mlp_only_layers": {"mlp_only_layers": [0], "num_hidden_layers": 2},
    "attention_bias": True,
    "use_sliding_window": {"use_sliding_window": True, "sliding_window": 5},
    "sliding_window": {"sliding_window": 7, "use_sliding_window": True},
}
_WINDOWS = {
    "use_sliding_window": {"use_sliding_window": True, "max_window_layers": 1},
    "sliding_window": {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 0},
    "max_window_layers": {"max_window_layers": 2, "use_sliding_window": True, "sliding_window": 5},
    "layer_types": {
        "layer_types": ["sliding_attention", "full_attention"],
        "num_hidden_layers": 2,
        "use_sliding_window": True,
        "sliding_window": 5,
    },
}

FAMILIES_MOVED: dict[str, Family] = {
    "bert": Family("bert", "BertForMaskedLM", _BERT),
    "roberta": Family("roberta", "RobertaForTokenClassification", _BERT),
    "modernbert": Family(
        "modernbert",
        "ModernBertForSequenceClassification",
        _SHARED
        | {
            "hidden_size": 60,
            "intermediate_size": 50,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "hidden_activation": {"hidden_activation": "silu", "classifier_activation": "silu"},
            "max_position_embeddings": 44,
            "initializer_range": 0.05,
            "norm_eps": 1e-3,
            "norm_bias": True,
            "attention_bias": True,
            "attention_dropout": 0.2,
            "layer_types": {
                "layer_types": ["full_attention", "sliding_attention"] * 2,
                "num_hidden_layers": 4,
            },
            "global_attn_every_n_layers": 2,
            "local_attention": 12,
            "rope_parameters": {"rope_parameters": {"full_attention": _YARN, "sliding_attention": _YARN}},
            "rope_scaling": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
            "global_rope_theta": 300.0,
            "local_rope_theta": 70.0,
            "mlp_bias": True,
            "mlp_dropout": 0.2,
            "classifier_pooling": "mean",
            "classifier_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "gpt2": Family(
        "gpt2",
        "GPT2LMHeadModel",
        _SHARED
        | {
            "n_positions": 44,
            "n_embd": 60,
            "n_layer": 2,
            "n_head": 6,
            "n_inner": 50,
            "resid_pdrop": 0.3,
            "attn_pdrop": 0.2,
            "layer_norm_epsilon": 1e-3,
            "activation_function": "relu",
            "initializer_range": 0.05,
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
    ),
    "gpt_neo": Family(
        "gpt_neo",
        "GPTNeoForCausalLM",
        _SHARED
        | {
            "max_position_embeddings": 44,
            "hidden_size": 60,
            "num_layers": {"num_layers": 2, "attention_types": [[["local", "global"], 1]]},
            "attention_types": [[["local", "global", "local"], 1]],
            "attention_layers": ["global", "global", "local"],
            "num_heads": 6,
            "intermediate_size": 50,
            "window_size": 7,
            "resid_dropout": 0.3,
            "attention_dropout": 0.2,
            "layer_norm_epsilon": 1e-3,
            "activation_function": "relu",
            "initializer_range": 0.05,
            "tie_word_embeddings": False,
        },
    ),
    "gpt_neox": Family(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        _SHARED
        | {
            "max_position_embeddings": 44,
            "hidden_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 10,
            "intermediate_size": 60,
            "rotary_pct": {"rotary_pct": 0.75, "rope_parameters": None},
            "rotary_emb_base": {"rotary_emb_base": 300.0, "rope_parameters": None},
            "rope_parameters": _YARN | {"partial_rotary_factor": 1.0},
            "rope_scaling": {
                "rope_scaling": {"type": "dynamic", "factor": 3.0, "partial_rotary_factor": 0.5}
            },
            "original_max_position_embeddings": {
                "original_max_position_embeddings": 14,
                "rope_parameters": _YARN | {"partial_rotary_factor": 0.5},
            },
            "attention_bias": False,
            "use_parallel_residual": False,
            "layer_norm_eps": 1e-3,
            "hidden_act": "relu",
            "initializer_range": 0.05,
            "hidden_dropout": 0.3,
            "attention_dropout": 0.2,
            "tie_word_embeddings": True,
        },
    ),
    "llama": Family("llama", "LlamaForCausalLM", _LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "mistral": Family("mistral", "MistralForCausalLM", _LLAMA | {"sliding_window": 7}),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM", _LLAMA | {"num_attention_heads": 2} | _WINDOWS),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", _LLAMA | _QWEN3 | _WINDOWS),
    "mixtral": Family("mixtral", "MixtralForCausalLM", _LLAMA | _ROUTED | _MIXTRAL),
    "qwen3_moe": Family("qwen3_moe", "Qwen3MoeForCausalLM", _LLAMA | _ROUTED | _QWEN3_MOE),
    "t5": Family(
        "t5",
        "T5ForConditionalGeneration",
        _IDS
        | {
            "vocab_size": 103,
            "d_model": 40,
            "d_kv": 10,
            "d_ff": 50,
            "num_layers": 2,
            "num_decoder_layers": 3,
            "num_heads": 2,
            "relative_attention_num_buckets": 12,
            "relative_attention_max_distance": 30,
            "dropout_rate": 0.3,
            "layer_norm_epsilon": 1e-3,
            "feed_forward_proj": "gated-silu",
            "dense_act_fn": "gelu_new",
            "is_gated_act": True,
            "scale_decoder_outputs": False,
            "decoder_start_token_id": 6,
            "tie_word_embeddings": False,
        },
    ),
    "marian": Family(
        "marian",
        "MarianMTModel",
        _IDS
        | {
            "vocab_size": 103,
            "max_position_embeddings": 44,
            "encoder_layers": 2,
            "encoder_ffn_dim": 60,
            "encoder_attention_heads": 5,
            "decoder_layers": 3,
            "decoder_ffn_dim": 70,
            "decoder_attention_heads": 3,
            "activation_function": "relu",
            "d_model": 60,
            "dropout": 0.3,
            "attention_dropout": 0.2,
            "init_std": 0.05,
            "decoder_start_token_id": 6,
            "scale_embedding": False,
        },
    ),
}
"""Keys that have no other value to move to are in UNMOVED."""

UNMOVED = {
    "architectures": "chooses the head",
    "model_type": "chooses the family",
    "label2id": "is held against id2label",
    "classifier_activation": "must be hidden_activation",
    "decoder_bias": "must be true under a head of masked words",
    "decoder_vocab_size": "must be vocab_size",
}


def settings_with(family: Family, *keys: str) -> dict[str, Any]:
    """The settings with other values for these keys."""
    settings = family.settings
    for key in keys:
        value = family.moved[key]
        settings |= value if isinstance(value, dict) and key in value else {key: value}
    return settings
