"""Reads pytorch_model.bin, PyTorch's old format, with torch's loader that builds tensors and runs no code."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

OLDEST_TORCH = (2, 6)  # earlier ones can be made to run code by a file (CVE-2025-32434)


def read_pickled(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of the file by its name.

    Raises:
      ValueError: torch is not installed, or too old; the file is torn, asks for code to be run, or holds
        other things than tensors by their names.
    """
    torch = _import_torch(path)
    try:
        # weights_only: a pickle may run any code; this loader builds tensors and nothing else.
        tensors = torch.load(path, map_location="cpu", mmap=_is_zip(path), weights_only=True)
    except Exception as error:  # torn files surface as whatever the unpickler meets first
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{str(path)!r} cannot be read as tensors ({reason}); copy it again, or save it as safetensors"
        ) from None
    if not isinstance(tensors, dict):
        raise ValueError(
            f"{str(path)!r} holds a {type(tensors).__name__} and no tensors by their names; save the model's "
            "state_dict() as safetensors"
        )
    found = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise ValueError(
            f"{str(path)!r} holds no tensors but {', '.join(map(str, list(tensors)[:5]))}: a checkpoint of "
            "training; save the model's state_dict() alone, as safetensors"
        )
    return {str(name): _as_array(torch, path, str(name), tensor) for name, tensor in found.items()}


def _import_torch(path: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise ValueError(
            f"{str(path)!r} is PyTorch's old format, which only torch reads; "
            "install torch, or give a model.safetensors"
        ) from None
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST_TORCH:
        raise ValueError(
            f"{str(path)!r} is PyTorch's old format, through which a file may run code in torch "
            f"{torch.__version__}; install torch {'.'.join(map(str, OLDEST_TORCH))} or newer, or give a "
            "model.safetensors"
        )
    return torch


def _as_array(torch: Any, path: Path, name: str, tensor: Any) -> np.ndarray:
    try:
        if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16: the bits travel as integers
            return tensor.view(torch.int16).numpy().view(jnp.dtype("bfloat16"))
        return tensor.numpy()
    except (TypeError, RuntimeError):
        raise ValueError(
            f"{str(path)!r} keeps {name} as {tensor.dtype}; give a file of float tensors"
        ) from None


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"  # torch before 1.6 wrote files that cannot be mapped
