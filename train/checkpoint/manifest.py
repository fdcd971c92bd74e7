"""What a checkpoint says about itself: its arrays with their digests, and the caller's metadata."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax

from flaxmill.model.params import LeafPath
from flaxmill.train.checkpoint.digest import compute_digests
from flaxmill.train.failures import CheckpointError

FORMAT = 1

METADATA: dict[str, type] = {
    **dict.fromkeys(("dataset", "tokenizer", "dropout", "saved_at", "imported", "init_from"), str),
    **dict.fromkeys(("versions", "mesh", "config", "best"), dict),
    **dict.fromkeys(("num_processes", "batch_offset", "rollbacks", "num_tokens"), int),
    **dict.fromkeys(("skipped_in_row", "losses"), list),
}
"""The entries of a run's metadata, and their types; any of them may be absent."""


class DefectError(Exception):
    """What keeps a checkpoint from being read, in words."""


def named_leaves(tree: Any) -> dict[LeafPath, Any]:
    """The leaves of any pytree by path: keys of dicts, fields of tuples and dataclasses, indices."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path): leaf for path, leaf in leaves
    }


def make_manifest(leaves: Mapping[LeafPath, jax.Array], metadata: dict[str, Any]) -> dict[str, Any]:
    """Describe and digest the arrays; `metadata` must survive JSON unchanged."""
    digests = compute_digests({join(path): leaf for path, leaf in leaves.items()})
    arrays = {
        join(path): {"dtype": str(leaf.dtype), "shape": list(leaf.shape), "digest": digests[join(path)]}
        for path, leaf in leaves.items()
    }
    content = {"format": FORMAT, "arrays": arrays, "metadata": metadata}
    if json.loads(json.dumps(content)) != content:
        raise TypeError(
            "the checkpoint's metadata changes on its way through JSON; use dicts, lists and str keys"
        )
    return {"flaxmill": content, "checksum": checksum(content)}


def read_manifest(stored: Any, where: str) -> dict[str, Any]:
    """The content of a stored manifest.

    Raises:
      DefectError: it is missing or damaged.
      CheckpointError: it is of a later version.
    """
    if not isinstance(stored, dict) or "flaxmill" not in stored:
        raise DefectError("its manifest is missing")
    content = stored["flaxmill"]
    try:
        is_whole = stored.get("checksum") == checksum(content)
    except RecursionError:
        is_whole = False
    if not is_whole:
        raise DefectError("its manifest does not match its checksum")
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise DefectError("its manifest has no format")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{where} has format {content['format']}; this version of flaxmill reads {FORMAT}"
        )
    if odd := _odd_part(content):
        raise DefectError(f"its manifest has no {odd} that could be read")
    return content


def _odd_part(content: Mapping[str, Any]) -> str | None:
    """A part of the content that is missing or has another type than was written; None: all are right."""
    for name in ("arrays", "metadata"):
        if not isinstance(content.get(name), dict):
            return name
    for name, kind in METADATA.items():
        if not isinstance(content["metadata"].get(name, kind()), kind):
            return f"metadata {name}"
    return next((name for name, array in content["arrays"].items() if not _is_array(name, array)), None)


def _is_array(name: str, described: Any) -> bool:
    if not isinstance(described, dict) or not set(name.split("/")).isdisjoint(("", ".", "..")):
        return False
    kinds = {"dtype": str, "digest": int, "shape": list}
    known = all(isinstance(described.get(key), kind) for key, kind in kinds.items())
    return known and all(isinstance(size, int) and size >= 0 for size in described["shape"])


def find_changed(arrays: Mapping[str, Any], leaves: Mapping[LeafPath, jax.Array]) -> list[str]:
    """Names of the loaded leaves whose digest is not the stored one; all processes of a job call it."""
    digests = compute_digests({join(path): leaf for path, leaf in leaves.items()})
    return [name for name, digest in digests.items() if digest != arrays[name]["digest"]]


def join(path: LeafPath) -> str:
    """A path as one name: params/layers/mlp/up/kernel."""
    return "/".join(path)


def checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
