"""What prepares a text."""

from typing import NamedTuple


class Means(NamedTuple):
    """What prepares text.

    num_workers: so many local processes; None: as many as there are cores, one for a little text.
    beam_flags: the flags of Apache Beam, which then does it; None: it does not.
    """

    num_workers: int | None = None
    beam_flags: tuple[str, ...] | None = None


LOCAL = Means()
