"""Selects the trained parameters: all but what optimizer.freeze names; with LoRA only adapters and head."""

import difflib
import fnmatch
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import abstract_params, logical_axes
from flaxmill.model.huggingface.places import tensor_key
from flaxmill.model.layer_plan import DENSE_GROUPS, LAYER_GROUPS
from flaxmill.model.layers.lora import head_beside_adapters, is_adapter
from flaxmill.model.params import LeafPath, Params, flatten, group_of, names_of, unflatten

_NUMBERS = re.compile(r"(?<![^/*])layers\.(\d+)(?:-(\d+))?(?=/|$)")


class Trainable(NamedTuple):
    """Which arrays of a tree of params are trained; all of them, if both fields are empty."""

    frozen: frozenset[LeafPath]
    """Arrays that are frozen whole."""
    layers: Mapping[LeafPath, np.ndarray]
    """For stacked arrays with some layers frozen: bool [L], True for trained layers."""

    def split(self, tree: Params) -> tuple[Params, Params]:
        """The trained and the frozen arrays of the params or of a tree like them, or of any part of it."""
        if not self.frozen:
            return tree, {}
        flat = flatten(tree)
        trained = {path: leaf for path, leaf in flat.items() if path not in self.frozen}
        frozen = {path: leaf for path, leaf in flat.items() if path in self.frozen}
        return unflatten(trained), unflatten(frozen)

    def hold(self, new: Params, old: Params | None = None) -> Params:
        """Trained arrays with new values, but in frozen layers with old values or, without `old`, zeros."""
        if not self.layers:
            return new

        def choose(path: tuple, new: jax.Array, old: jax.Array | float) -> jax.Array:
            mask = self.layers.get(names_of(path))
            return new if mask is None else jnp.where(mask.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        old = jax.tree.map(lambda _: 0.0, new) if old is None else old
        return jax.tree_util.tree_map_with_path(choose, new, old)


def choose_trainable(freeze: Sequence[str], params: Params) -> Trainable:
    """What is trained of these params (arrays or their shapes) when the patterns `freeze` are frozen.

    A pattern is compared (as file names are, `fnmatch`) with the name of each parameter in a checkpoint's
    manifest, as `embed/tokens/embedding`, and with the same name where every group of layers is called
    `layers`. `layers.3` or `layers.0-5` in it stands for these layers, counted from 0 in their stack.

    Raises:
      ValueError: a pattern matches nothing or names a layer that does not exist, or nothing is left to train.
    """
    flat = flatten(params)
    numbers = layer_numbers(params)
    trained = {path: np.ones(len(numbers[path]) if path in numbers else 1, bool) for path in flat}
    if any(is_adapter(path) for path in flat):
        heads = head_beside_adapters(params)
        for path in flat:
            trained[path][:] = is_adapter(path) or path[0] in heads
    for pattern in freeze:
        for path, layers in _matches(pattern, flat, numbers).items():
            trained[path][layers] = False
    if not any(mask.any() for mask in trained.values()):
        raise ValueError(
            f"optimizer.freeze={' '.join(freeze)} leaves nothing to train; freeze less, or nothing: "
            "--optimizer.freeze None"
        )
    frozen = frozenset(path for path, mask in trained.items() if not mask.any())
    partly = {path: mask for path, mask in trained.items() if mask.any() and not mask.all()}
    return Trainable(frozen, partly)


class Count(NamedTuple):
    """Numbers of parameters; rows that only pad the vocabulary do not count."""

    all: int
    trained: int


def count_by_leaf(freeze: Sequence[str], config: ModelConfig) -> dict[LeafPath, Count]:
    """How many parameters each array has, and how many of them are trained."""
    params, axes = flatten(abstract_params(config)), flatten(logical_axes(config))
    trainable, vocab_size = choose_trainable(freeze, unflatten(params)), config.vocab_size
    assert vocab_size is not None
    counts = {}
    for path, leaf in params.items():
        sizes = zip(axes[path], leaf.shape, strict=True)
        size = math.prod(vocab_size if axis == "vocab" else size for axis, size in sizes)
        share = 0.0 if path in trainable.frozen else float(np.mean(trainable.layers.get(path, True)))
        counts[path] = Count(size, round(size * share))
    return counts


def count_trained(freeze: Sequence[str], config: ModelConfig) -> int:
    """Number of parameters that are trained, counted as `count_params` counts them all."""
    return sum(count.trained for count in count_by_leaf(freeze, config).values())


def layer_numbers(params: Params) -> dict[LeafPath, range]:
    """For every stacked array: the numbers of its layers, counted from 0 within their stack."""
    flat = flatten(params)
    sizes = {group: leaf.shape[0] for path, leaf in flat.items() if (group := group_of(path))}
    numbers = {}
    for group, size in sizes.items():
        before = LAYER_GROUPS[: LAYER_GROUPS.index(group[-1])]
        start = sum(sizes.get((*group[:-1], name), 0) for name in before)
        numbers[group] = range(start, start + size)
    return {path: numbers[group] for path in flat if (group := group_of(path))}


def refuse_mixed_depths(flat: Mapping[LeafPath, Any], what: str) -> None:
    """Refuse a setting that counts layers where those with experts are stacked apart from the others."""
    if any(name in DENSE_GROUPS for path in flat for name in path):
        raise ValueError(
            f"{what} counts layers by their depth, which is not supported where only some have experts; "
            "leave it out, or use model.moe_every=1"
        )


def _matches(
    pattern: str, flat: Mapping[LeafPath, Any], numbers: Mapping[LeafPath, range]
) -> dict[LeafPath, Any]:
    """The arrays that a pattern freezes, each with the frozen elements of its leading dimension."""
    found = _NUMBERS.search(pattern)
    plain = _NUMBERS.sub("layers", pattern)
    names = {path: ("/".join(path), tensor_key(path)) for path in flat}
    paths = [path for path in flat if any(fnmatch.fnmatchcase(name, plain) for name in names[path])]
    if found is None:
        matched: dict[LeafPath, Any] = dict.fromkeys(paths, slice(None))
    else:
        refuse_mixed_depths(flat, f"optimizer.freeze={pattern}")
        first, last = int(found[1]), int(found[2] or found[1])
        stacked = [path for path in paths if path in numbers]
        _check_range(pattern, first, last, [numbers[path].stop for path in stacked])
        matched = {path: [first <= number <= last for number in numbers[path]] for path in stacked}
    if not matched:
        raise ValueError(f"optimizer.freeze={pattern} matches no parameter; {_hint(plain, names)}")
    return matched


def _check_range(pattern: str, first: int, last: int, depths: list[int]) -> None:
    if first > last:
        raise ValueError(f"optimizer.freeze={pattern} names no layer; give the lower number first")
    if depths and last >= max(depths):
        raise ValueError(
            f"optimizer.freeze={pattern} names layer {last}, and the last is {max(depths) - 1}; "
            "layers count from 0"
        )


def _hint(pattern: str, names: Mapping[LeafPath, tuple[str, str]]) -> str:
    known: dict[str, None] = {}
    for name in dict.fromkeys(name for both in names.values() for name in both):
        parts = name.split("/")
        known |= dict.fromkeys(["/".join([*parts[:n], "*"]) for n in range(1, len(parts))] + [name])
    near = difflib.get_close_matches(pattern, known, 1)
    return f"did you mean {near[0]}?" if near else f"names are like {next(iter(names.values()))[0]}"
