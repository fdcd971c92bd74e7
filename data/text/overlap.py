"""Leaves out training files that are held out as well, under the same name or another."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable

from flaxmill.data.files.sources import InputSource, InputSources, Log, describe_pairs
from flaxmill.data.messages import shorten

# Files of one size are compared by their beginnings first: few different files share one.
_HEAD_BYTES = 64 * 1024
_MAX_SHOWN = 3

TRAINED_AND_HELD_OUT = "data.valid_files names the training files themselves"


def leave_out_held_out(train: InputSources, valid: InputSources, log: Log) -> InputSources:
    """The training sources that data.valid_files does not name; what is left out is logged.

    Where both fields name the same sources, all are trained on and measured. `flaxmill eval --data` reads a
    file so, and so one sees whether a model can learn a few examples by heart.

    Raises ValueError where data.valid_files names all training sources and others.
    """
    held_out = {source.identity for source in valid.sources}
    left_out = [source for source in train.sources if source.identity in held_out]
    if len(left_out) == len(train.sources) == len(held_out):
        log(f"{TRAINED_AND_HELD_OUT}: held-out scores are training scores")
        return train
    return _without(train, left_out, "which data.valid_files names too", log)


def may_hold_copies(train: InputSources, valid: InputSources) -> bool:
    """Whether a training file has the size of a held-out one, without being the same."""
    if _share_sources(train, valid):
        return False
    return not {_size(s) for s in train.sources}.isdisjoint(_size(s) for s in valid.sources if _size(s))


def leave_out_copies(train: InputSources, valid: InputSources | None, log: Log) -> InputSources:
    """The training sources with bytes that no held-out source holds. What is left out is logged, and so are
    training files that hold the same.

    Raises ValueError where none is left.
    """
    held_out = () if valid is None or _share_sources(train, valid) else valid.sources
    identities = {source.identity for source in train.sources}
    left_out: list[InputSource] = []
    twice: list[tuple[str, str]] = []
    for group in _same_bytes([*train.sources, *held_out]):
        ours = [source for source in group if source.identity in identities]
        if len(ours) < len(group):
            left_out += ours
        else:
            twice += [(source.name, ours[0].name) for source in ours[1:]]
    if twice:
        log(f"{train.name}: {describe_pairs(twice, 'holds the same as')}; all are read")
    return _without(train, left_out, "which holds the same as a file of data.valid_files", log)


def _without(train: InputSources, left_out: list[InputSource], why: str, log: Log) -> InputSources:
    if not left_out:
        return train
    if len(left_out) == len(train.sources):
        raise ValueError(
            f"{train.name} holds nothing to train on: {_shown(left_out)}, {why}; give other training files"
        )
    log(f"not trained on: {_shown(left_out)}, {why}")
    gone = {source.identity for source in left_out}
    return train._replace(sources=tuple(source for source in train.sources if source.identity not in gone))


def _share_sources(train: InputSources, valid: InputSources) -> bool:
    return not {s.identity for s in train.sources}.isdisjoint(s.identity for s in valid.sources)


def _same_bytes(sources: Iterable[InputSource]) -> list[list[InputSource]]:
    """Groups of files that hold the same, found by size, then by their beginnings, then by all they hold."""
    groups = [[source for source in sources if _size(source)]]
    for key in (_size, _head, _digest):
        parts: dict[tuple[int, Hashable], list[InputSource]] = defaultdict(list)
        for number, group in enumerate(groups):
            for source in group:
                parts[number, key(source)].append(source)
        groups = [part for part in parts.values() if len(part) > 1]
    return groups


def _size(source: InputSource) -> int:
    return 0 if source.path is None else source.inventory[0][1]


def _head(source: InputSource) -> Hashable:
    return _hash(source, _HEAD_BYTES)


def _digest(source: InputSource) -> Hashable:
    return _hash(source, None)


def _hash(source: InputSource, num_bytes: int | None) -> Hashable:
    """A hash of the first bytes, or of all; the file's name if it cannot be read, as its reader will say."""
    assert source.path is not None
    try:
        with open(source.path, "rb") as file:
            if num_bytes is not None:
                return hashlib.sha256(file.read(num_bytes)).digest()
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return source.name


def _shown(sources: list[InputSource]) -> str:
    return shorten([source.name for source in sources], _MAX_SHOWN)
