"""Writes adapters of LoRA as PEFT reads them: adapter_config.json and adapter_model.safetensors."""

# I flattened input dims, R rank, O flattened output dims

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path as Directory
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors.numpy import save

from flaxmill.model.config import ModelConfig
from flaxmill.model.families.description import FamilyDescription
from flaxmill.model.families.stored_tensors import StoredTensor, TensorMap, to_stored
from flaxmill.model.huggingface.export import export_tensors, to_host
from flaxmill.model.huggingface.family_fit import fit_family
from flaxmill.model.huggingface.places import Place, leaves
from flaxmill.model.huggingface.writing import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PartialFiles
from flaxmill.model.layers.lora import LORA_A, LORA_B, head_beside_adapters, without_lora
from flaxmill.model.params import Params, flatten

_PREFIX = "base_model.model."
_TASKS = {
    "classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "qa": "QUESTION_ANS",
    "lm": "CAUSAL_LM",
    "none": "FEATURE_EXTRACTION",
}


class _Part(NamedTuple):
    """The adapter of one projection in one layer, which a file may fuse with others."""

    place: Place
    a: np.ndarray
    """[I, R]"""
    b: np.ndarray
    """[R, *out_dims]"""


def save_adapter(directory: str | os.PathLike, config: ModelConfig, params: Params, base: str | None) -> str:
    """Write the adapters, and the task's head whole, for `PeftModel.from_pretrained(base_model, directory)`.

    Projections that the family's files fuse get one adapter made of blocks. Its rank is the sum of their
    ranks, and the product is the same.

    Args:
      config: a model with LoRA.
      base: the adapters' base model, as adapter_config.json names it; None: unnamed.

    Returns: the base model's class in transformers.

    Raises:
      ValueError: no family can hold the base model.
    """
    assert config.lora_rank is not None
    family, base_config = fit_family(without_lora(config))
    tensors = family.tensors(base_config)
    weights = dict(_adapter_tensors(base_config, tensors, params))
    heads = dict(_head_tensors(base_config, tensors, params))
    settings = _settings(config, tensors, base) | {"modules_to_save": _head_modules(family, heads)}
    weights |= {f"{_PREFIX}{name}": np.ascontiguousarray(value, np.float32) for name, value in heads.items()}
    assert base_config.head is not None
    if jax.process_index() == 0:
        with PartialFiles(Directory(directory)) as files:
            with files.open(ADAPTER_WEIGHTS) as file:
                file.write(save(weights, metadata={"format": "pt"}))
            files.write_json(ADAPTER_CONFIG, settings)
            files.commit()
    return family.architectures[base_config.head]


def _adapter_tensors(
    config: ModelConfig, tensors: TensorMap, params: Params
) -> Iterator[tuple[str, np.ndarray]]:
    flat = flatten(params)
    modules: dict[str, list[_Part]] = {}
    for leaf in leaves(config, tensors):
        a, b = (flat.get((*leaf.path[:-1], name)) for name in (LORA_A, LORA_B))
        if leaf.path[-1] != "kernel" or a is None:
            continue
        a, b = to_host(a), to_host(b)
        for layer, place in enumerate(leaf.places):
            part = _Part(place, a[layer].reshape(-1, a.shape[-1]), b[layer])
            modules.setdefault(_module(place.name), []).append(part)
    for name, parts in sorted(modules.items()):
        a_RI, b_OR = _fused(parts)
        yield f"{_PREFIX}{name}.lora_A.weight", np.ascontiguousarray(a_RI, np.float32)
        yield f"{_PREFIX}{name}.lora_B.weight", np.ascontiguousarray(b_OR, np.float32)


def _fused(parts: Sequence[_Part]) -> tuple[np.ndarray, np.ndarray]:
    """Both factors in torch's layout: x A is [x A1, x A2, ...]; in B each part's block writes only its own
    outputs."""
    a_IR = np.concatenate([part.a for part in parts], axis=1)
    stored: StoredTensor = parts[0].place.stored
    # PEFT keeps factors as a Linear does, also those beside GPT-2's Conv1D, which is [in, out].
    stored = StoredTensor(stored.name, transposed=True, parts=stored.parts, interleaved=stored.interleaved)
    blocks = [np.zeros((a_IR.shape[1], *parts[0].b.shape[1:]), np.float32) for _ in range(stored.parts)]
    start = 0
    for part in parts:
        rank = len(part.b)
        blocks[part.place.stored.part][start : start + rank] = part.b
        start += rank
    num_outputs = sum(block[0].size for block in blocks)
    return a_IR.T, to_stored(stored, blocks, (num_outputs, a_IR.shape[1]))


def _head_tensors(
    config: ModelConfig, tensors: TensorMap, params: Params
) -> Iterator[tuple[str, np.ndarray]]:
    groups = head_beside_adapters(params)
    of_head = [leaf for leaf in leaves(config, tensors) if leaf.path[0] in groups]
    return export_tensors(of_head, {group: params[group] for group in groups})


def _head_modules(family: FamilyDescription, heads: dict[str, Any]) -> list[str] | None:
    """The largest modules with the head and nothing of the body: PEFT wraps each as a whole."""
    bare = []
    for name in heads:
        prefix = next((prefix for prefix in family.prefixes if name.startswith(prefix)), "")
        bare.append(name.removeprefix(prefix).split(".")[0])
    return sorted(set(bare)) or None


def _settings(config: ModelConfig, tensors: TensorMap, base: str | None) -> dict[str, Any]:
    """What LoraConfig of PEFT reads, but for modules_to_save."""
    rank = config.lora_rank
    assert rank is not None
    widths: dict[str, int] = {}  # how many of our projections each module holds, by a pattern of its name
    targets = [stored for key, stored in tensors.items() if _is_target(key, config)]
    for stored in targets:
        pattern = re.escape(_module(stored.name)).replace(r"\{layer\}", r"\d+")
        widths[pattern] = widths.get(pattern, 0) + 1
    fewest = min(widths.values())
    wider = {pattern: width for pattern, width in widths.items() if width > fewest}
    alpha = int(config.lora_alpha) if config.lora_alpha.is_integer() else config.lora_alpha
    is_seq2seq = config.encoder_layers is not None
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if is_seq2seq else _TASKS.get(config.head or "none"),
        "base_model_name_or_path": base,
        "r": fewest * rank,
        "lora_alpha": fewest * alpha,
        "rank_pattern": {pattern: width * rank for pattern, width in wider.items()},
        "alpha_pattern": {pattern: width * alpha for pattern, width in wider.items()},
        "target_modules": "|".join(sorted(widths)),  # a regular expression that matches exactly these
        "fan_in_fan_out": not all(stored.transposed for stored in targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "use_rslora": False,
        "inference_mode": True,
    }


def _is_target(key: str, config: ModelConfig) -> bool:
    *_, projection, leaf = key.split("/")
    return "layers/" in key and leaf == "kernel" and projection in config.lora_projections


def _module(name: str) -> str:
    return name.removesuffix(".weight")
