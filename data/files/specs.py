"""What an entry of data.files may be besides a path of this machine, told by how it begins."""

from flaxmill.data.files.remote_paths import is_remote
from flaxmill.data.files.tfds_rows import PREFIX

OWN = "python:"
"""Begins the name of text that a Python file has defined (own_rows.py)."""
EMBEDDED = "embedded:"
"""Begins the name of a part of the embedded corpus: embedded:all, embedded:prose or embedded:code."""


def is_local(spec: str) -> bool:
    """Whether it is a path or glob of this machine, which is made absolute before it is kept."""
    return not spec.startswith((PREFIX, EMBEDDED, OWN)) and not is_remote(spec)
