"""What a checkpoint says about itself: its arrays with their digests, and the caller's metadata."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax

from flaxmill.train.digest import compute_digests
from flaxmill.train.failures import CheckpointError

FORMAT = 1

LeafPath = tuple[str, ...]


class DefectError(Exception):
    """What keeps a checkpoint from being read, in words."""


def named_leaves(tree: Any) -> dict[LeafPath, Any]:
    """The leaves of any pytree by path: keys of dicts, fields of tuples and dataclasses, indices."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path): leaf for path, leaf in leaves
    }


def nested(leaves: Mapping[LeafPath, Any]) -> dict[str, Any]:
    """Leaves by path as nested dicts with string keys: what is stored, free of this program's classes."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


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
    if stored.get("checksum") != checksum(content):
        raise DefectError("its manifest does not match its checksum")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{where} has format {content['format']}; this version of flaxmill reads {FORMAT}"
        )
    return content


def find_changed(arrays: Mapping[str, Any], leaves: Mapping[LeafPath, jax.Array]) -> list[str]:
    """Names of the loaded leaves whose digest is not the stored one; all processes of a job call it."""
    digests = compute_digests({join(path): leaf for path, leaf in leaves.items()})
    return [name for name, digest in digests.items() if digest != arrays[name]["digest"]]


def join(path: LeafPath) -> str:
    """A path as one name: params/layers/mlp/up/kernel."""
    return "/".join(path)


def checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
