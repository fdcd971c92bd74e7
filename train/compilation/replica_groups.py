"""Which devices take part in a collective: XLA writes their groups in four forms, and permutes as pairs."""

import math
import re
from collections.abc import Sequence

import numpy as np

Groups = tuple[tuple[int, ...], ...]

_MESH = re.compile(
    r"replica_groups=mesh\[(?P<sizes>[^\]]*)\]"
    r"(?:,\s*device_ids=\((?P<ids>[^{]*)\))?\s*\{(?P<axes>[^}]*)\}"
)
_IOTA = re.compile(r"replica_groups=\[(?P<shape>[\d,]+)\]<=\[(?P<dims>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?")
_LISTS = re.compile(r"replica_groups=\{(?P<groups>\{[\d,]*\}(?:,\s*\{[\d,]*\})*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(?P<pairs>(?:\{\d+,\d+\},?\s*)*)\}")
_IDS = re.compile(r"\[(?P<dims>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?")


def read_groups(attributes: str, num_devices: int) -> Groups:
    """The groups of devices that exchange something, or pairs of a sender and a receiver.

    Devices are numbered as in the mesh, laid flat.

    Raises:
      ValueError: the groups are written in a form that is not known.
    """
    if found := _PAIRS.search(attributes):
        return tuple((int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", found["pairs"]))
    if found := _MESH.search(attributes):
        return _of_mesh(found["sizes"], found["ids"], found["axes"])
    if found := _IOTA.search(attributes):
        ids = _iota(found["dims"], found["order"])
        return _rows(ids.reshape(-1, _numbers(found["shape"])[-1]))
    if found := _LISTS.search(attributes):
        return tuple(tuple(_numbers(group)) for group in re.findall(r"\{([\d,]*)\}", found["groups"]))
    if re.search(r"replica_groups=\{\}", attributes):  # the form that means all, where it is written out
        return (tuple(range(num_devices)),)
    written = re.search(r"replica_groups=.{0,80}", attributes)
    raise ValueError(
        f"the groups of a collective are written in a form that is not known: "
        f"{written[0] if written else attributes[:80]!r}"
    )


def crossed_axes(groups: Groups, mesh_shape: dict[str, int]) -> tuple[str, ...]:
    """The axes of the mesh along which members of a group differ."""
    places = np.array(np.unravel_index(np.arange(math.prod(mesh_shape.values())), tuple(mesh_shape.values())))
    differ = np.zeros(len(mesh_shape), bool)
    for group in groups:
        within = places[:, list(group)]
        differ |= (within != within[:, :1]).any(axis=1)
    return tuple(axis for axis, crossed in zip(mesh_shape, differ, strict=True) if crossed)


def _of_mesh(sizes: str, ids: str | None, used: str) -> Groups:
    """Groups along some axes of a mesh that is written out, or along parts of axes: 'a':(2)4 is the part of
    size 4 of axis a after a part of size 2."""
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    named = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", used)
    parts = {name: (before, size) for name, before, size in named}
    dims: list[int] = []
    kept: list[int] = []
    taken: list[int] = []
    for name, size in axes.items():
        before, part = (int(number) for number in parts[name]) if parts.get(name, ("", ""))[0] else (1, size)
        pieces = [(before, False), (part, name in parts), (size // (before * part), False)]
        for piece, is_taken in pieces:
            (taken if is_taken else kept).append(len(dims))
            dims.append(piece)
    if unknown := set(parts) - set(axes):
        raise ValueError(f"the groups of a collective name axes that their mesh lacks: {sorted(unknown)}")
    devices = _device_ids(ids, math.prod(axes.values())).reshape(dims)
    group_size = math.prod(dims[dim] for dim in taken)
    return _rows(devices.transpose(kept + taken).reshape(-1, group_size))


def _device_ids(text: str | None, num_devices: int) -> np.ndarray:
    if text is None:
        return np.arange(num_devices)
    if found := _IDS.fullmatch(text.strip()):
        return _iota(found["dims"], found["order"])
    if re.fullmatch(r"[\d,\s]+", text):
        return np.array(_numbers(text))
    raise ValueError(f"the devices of a collective are written in a form that is not known: {text!r}")


def _iota(dims: str, order: str | None) -> np.ndarray:
    """The numbers from 0 on, laid out and then transposed, flat."""
    sizes = _numbers(dims)
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return (ids.transpose(_numbers(order)) if order else ids).reshape(-1)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]


def _rows(array: np.ndarray) -> Groups:
    return tuple(tuple(map(int, row)) for row in array)


def sizes_of(groups: Sequence[Sequence[int]]) -> int:
    """Devices of the largest group."""
    return max((len(group) for group in groups), default=1)
