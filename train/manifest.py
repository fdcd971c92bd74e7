"""What a checkpoint says about itself: its arrays with their digests, and the caller's metadata."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax

from flaxmill.train.digest import compute_digests
from flaxmill.train.failures import CheckpointError

FORMAT = 1
MAX_LISTED = 8  # leaves of one kind named in an error

LeafPath = tuple[str, ...]


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
    return {"flaxmill": content, "checksum": _checksum(content)}


def read_manifest(stored: Any, where: str) -> dict[str, Any]:
    """The content of a stored manifest.

    Raises:
      CheckpointError: it is missing, damaged or of a later version.
    """
    if not isinstance(stored, dict) or "flaxmill" not in stored:
        raise CheckpointError(f"{where} holds no manifest, so flaxmill did not write it")
    content = stored["flaxmill"]
    if stored.get("checksum") != _checksum(content):
        raise CheckpointError(f"{where} is damaged: its manifest does not match its checksum")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{where} has format {content['format']}; this version of flaxmill reads {FORMAT}"
        )
    return content


def check_fits(arrays: Mapping[str, Any], wanted: Mapping[LeafPath, Any], where: str) -> None:
    """Compare the stored arrays with the wanted shapes and dtypes.

    Raises:
      CheckpointError: listing leaves that are missing, left over, or of another shape or dtype.
    """
    names = {join(path): leaf for path, leaf in wanted.items()}
    changed = [
        f"{name} (stored {_shape_text(arrays[name]['dtype'], arrays[name]['shape'])}, "
        f"wanted {_shape_text(leaf.dtype, leaf.shape)})"
        for name, leaf in names.items()
        if name in arrays
        and (list(leaf.shape) != arrays[name]["shape"] or str(leaf.dtype) != arrays[name]["dtype"])
    ]
    problems = [
        f"{what} {_listed(found)}"
        for what, found in (
            ("it lacks", [name for name in names if name not in arrays]),
            ("it also holds", [name for name in arrays if name not in names]),
            ("different are", changed),
        )
        if found
    ]
    if problems:
        raise CheckpointError(
            f"{where} does not fit the model and optimizer: {'; '.join(problems)}; "
            "use the configuration that wrote it"
        )


def find_damage(arrays: Mapping[str, Any], leaves: Mapping[LeafPath, jax.Array]) -> list[str]:
    """Names of the loaded leaves whose digest is not the stored one."""
    digests = compute_digests({join(path): leaf for path, leaf in leaves.items()})
    return [name for name, digest in digests.items() if digest != arrays[name]["digest"]]


def join(path: LeafPath) -> str:
    """A path as one name: params/layers/mlp/up/kernel."""
    return "/".join(path)


def _checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _shape_text(dtype: Any, shape: Any) -> str:
    return f"{dtype}{list(shape)}"


def _listed(names: list[str]) -> str:
    rest = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")
