"""What prepares a dataset."""

from typing import NamedTuple


class Means(NamedTuple):
    """What prepares a dataset.

    num_workers: so many local processes encode text; None: as many as there are cores, one for a little.
    beam_flags: the flags of Apache Beam, which then encodes it; None: it does not.
    beside: all of it is done in a process of its own, since this one compiles meanwhile.
    """

    num_workers: int | None = None
    beam_flags: tuple[str, ...] | None = None
    beside: bool = False


LOCAL = Means()
