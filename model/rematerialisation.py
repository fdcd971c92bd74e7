"""What of a layer is kept for the backward pass, what is computed again, and what waits on the host."""

from collections.abc import Callable
from typing import Any

import jax

from flaxmill.model.fields import DENSE_TENSORS, ModelFields
from flaxmill.sharding.memory import HOST_MEMORY

Policy = Callable[..., Any]


def remat_policy(config: ModelFields) -> Policy:
    """What `jax.checkpoint` asks of each operation: is its result kept?

    Gathered weights are never kept, which would undo their division over devices: the backward pass gathers
    them again. Nor is a layer's part of a stage's stack, which is there anyway.
    """
    if config.remat == "none":
        return _everything_but_weights
    of_tensors = dict(entry.split("=") for entry in config.remat_tensors)
    kept = {*(DENSE_TENSORS if config.remat == "dots" else ())} - {*of_tensors}
    kept |= {name for name, how in of_tensors.items() if how == "save"}
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=sorted(kept),
        names_which_can_be_offloaded=sorted(name for name, how in of_tensors.items() if how == "offload"),
        offload_src="device",
        offload_dst=HOST_MEMORY,
    )


_ONLY_MOVES = frozenset({"all_gather", "slice", "dynamic_slice", "squeeze"})


def _everything_but_weights(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in _ONLY_MOVES
