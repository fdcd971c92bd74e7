"""Turns parameters, or any tree like them, into the tensors that files hold, streamed layer by layer."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxmill.model.families.stored_tensors import to_stored
from flaxmill.model.huggingface.places import Leaf, Place
from flaxmill.model.params import Params, flatten


class _Source(NamedTuple):
    leaf: Leaf
    index: tuple[int, ...]
    """The layer, and the expert, that the place is for."""
    place: Place


def export_tensors(parameters: Sequence[Leaf], params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """Name and host array of each stored tensor, sorted by name; they are made one at a time.

    Where parameters are spread over processes, all of them must walk through this together.

    Raises:
      ValueError: the tree is not one of these parameters.
    """
    flat = flatten(params)
    expected = {leaf.path: leaf.shape for leaf in parameters}
    differing = expected.items() ^ {path: np.shape(value) for path, value in flat.items()}.items()
    if differing:
        names = sorted({"/".join(path) for path, _ in differing})
        raise ValueError(
            f"the parameters do not fit this config: {', '.join(names[:8])} differ in shape or are on one "
            "side only; give the config that they were made with"
        )
    sources: dict[str, list[_Source]] = {}
    for leaf in parameters:
        for number, place in enumerate(leaf.places):
            sources.setdefault(place.name, []).append(_Source(leaf, leaf.index_of(number), place))
    return (
        (name, _assemble(sorted(parts, key=lambda part: part.place.stored.part), flat))
        for name, parts in sorted(sources.items())
    )


def to_host(value: Any) -> np.ndarray:
    """All of an array; if it is spread over processes, each of them gets all of it."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        from jax.experimental import multihost_utils  # takes half a second, which most runs are spared

        value = multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value)


def _assemble(parts: Sequence[_Source], flat: dict[Any, Any]) -> np.ndarray:
    stored, shape = parts[0].place.stored, parts[0].place.stored_shape
    assert [part.place.stored.part for part in parts] == list(range(stored.parts)), parts[0].place.name
    return to_stored(stored, [_on_host(part, flat[part.leaf.path]) for part in parts], shape)


def _on_host(source: _Source, value: Any) -> np.ndarray:
    if isinstance(value, jax.Array) and _is_on_one_cpu(value):
        value = np.asarray(value)  # a view
    return to_host(value[source.index])[
        tuple(slice(size) for size in source.place.shape)
    ]  # padding stays behind


def _is_on_one_cpu(value: jax.Array) -> bool:
    return len(value.sharding.device_set) == 1 and next(iter(value.devices())).platform == "cpu"
