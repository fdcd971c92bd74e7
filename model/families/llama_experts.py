"""What Mixtral and Qwen3-MoE add to LLaMA: experts, in config.json and in files."""

# E experts, D model, F width of an expert

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_json.settings import Setting, flag, number, other, shown, whole
from flaxmill.model.families.stored_tensors import StoredTensor, TensorMap

WithExperts = Literal["mixtral", "qwen3_moe"]
MAX_EXPERTS = 4096

_LOSS: dict[str, Setting] = {"output_router_logits": flag(False), "router_aux_loss_coef": number(0.001)}
EXPERT_SETTINGS: dict[WithExperts, dict[str, Setting]] = {
    "mixtral": {"num_local_experts": whole(8, most=MAX_EXPERTS), "num_experts_per_tok": whole(2), **_LOSS},
    "qwen3_moe": {
        "num_experts": whole(128, most=MAX_EXPERTS),
        "num_experts_per_tok": whole(8),
        "moe_intermediate_size": whole(768),
        "norm_topk_prob": flag(False),
        "decoder_sparse_step": whole(1),
        "mlp_only_layers": other(),
        **_LOSS,
    },
}
"""The keys of config.json that are about experts."""

NUM_EXPERTS: dict[WithExperts, str] = {"mixtral": "num_local_experts", "qwen3_moe": "num_experts"}
"""Each has the other's name as an alias."""

_BLOCKS: dict[WithExperts, str] = {"mixtral": "block_sparse_moe", "qwen3_moe": "mlp"}
_PROJECTIONS: dict[WithExperts, dict[str, str]] = {
    "mixtral": {"gate": "w1", "up": "w3", "down": "w2"},
    "qwen3_moe": {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
}
_DEFAULT_LOSS = 0.001  # of transformers, for a loss that is off


def read_experts(values: Mapping[str, Any], family: WithExperts, head: str) -> dict[str, Any]:
    """Keyword arguments of ModelConfig; transformers' other heads have no loss of experts."""
    has_loss = values["output_router_logits"] and head == "lm"
    fields = {
        "num_experts": values[NUM_EXPERTS[family]],
        "experts_per_token": values["num_experts_per_tok"],
        "load_balance_loss": values["router_aux_loss_coef"] if has_loss else 0.0,
    }
    if family == "mixtral":
        return fields
    return fields | {
        "expert_dim": values["moe_intermediate_size"],
        "normalize_top_k": values["norm_topk_prob"],
        "moe_every": _read_places(values),
    }


def write_experts(config: ModelConfig, family: WithExperts) -> dict[str, Any]:
    """The keys of config.json that are about experts."""
    written = {
        NUM_EXPERTS[family]: config.num_experts,
        "num_experts_per_tok": config.experts_per_token,
        "output_router_logits": config.load_balance_loss > 0,
        "router_aux_loss_coef": config.load_balance_loss or _DEFAULT_LOSS,
    }
    if family == "mixtral":
        return written | {"intermediate_size": config.expert_hidden_dim}
    return written | {
        "moe_intermediate_size": config.expert_hidden_dim,
        "norm_topk_prob": config.normalize_top_k,
        "decoder_sparse_step": config.moe_every,
        "mlp_only_layers": [],
    }


def expert_tensors(layer: str, family: WithExperts) -> TensorMap:
    """Where a layer's router and experts are; `layer` is the prefix of the layer's names."""
    block = f"{layer}{_BLOCKS[family]}"
    tensors = {"layers/moe/router/kernel": StoredTensor(f"{block}.gate.weight", transposed=True)}
    for path, name in _PROJECTIONS[family].items():
        stored = StoredTensor(f"{block}.experts.{{expert}}.{name}.weight", transposed=True)
        tensors[f"layers/moe/{path}/kernel"] = stored
    return tensors


def apart(arrays: Mapping[str, np.ndarray], family: WithExperts) -> dict[str, np.ndarray]:
    """The file's tensors with one for each expert, as views.

    transformers keeps them fused in memory, as `gate_up_proj` [E,2F,D] and `down_proj` [E,D,F], and so do
    files that it was told to write without conversion (`save_original_format=False`).
    """
    names, found = _PROJECTIONS[family], {}
    for name, array in arrays.items():
        block, _, last = name.rpartition(".mlp.")
        inside = f"{block}.{_BLOCKS[family]}"
        match last:
            case "gate.weight":
                found[f"{inside}.gate.weight"] = array
            case "experts.gate_up_proj" if array.ndim == 3:
                for expert, both in enumerate(array):
                    width = len(both) // 2
                    found[f"{inside}.experts.{expert}.{names['gate']}.weight"] = both[:width]
                    found[f"{inside}.experts.{expert}.{names['up']}.weight"] = both[width:]
            case "experts.down_proj" if array.ndim == 3:
                for expert, down in enumerate(array):
                    found[f"{inside}.experts.{expert}.{names['down']}.weight"] = down
            case _:
                found[name] = array
    return found


def _read_places(values: Mapping[str, Any]) -> int:
    """The n for which every n-th layer has experts."""
    num_layers, step, dense = (
        values["num_hidden_layers"],
        values["decoder_sparse_step"],
        values["mlp_only_layers"],
    )
    dense = [] if dense is None else dense
    with_experts = [n for n in range(num_layers) if n not in dense and (n + 1) % step == 0]
    for every in range(1, num_layers + 1):
        if with_experts == list(range(every - 1, num_layers, every)):
            return every
    raise ValueError(
        f"config.json: mlp_only_layers={shown(dense)} with decoder_sparse_step={step} is not supported: only "
        f"every n-th of the {num_layers} layers may have experts, and one at least must"
    )
