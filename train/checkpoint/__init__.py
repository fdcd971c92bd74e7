"""Checkpoints of one run: written whole, checked when they are read, on any mesh.

checkpoints    save, wait, open one, load the newest: read this first
stored         one checkpoint, opened once: its metadata, and how it is restored
store          the only module that touches Orbax
manifest       what a checkpoint says about itself, and which loaded arrays differ from it
digest         one number for an array, the same on every mesh
agreement      one verdict in all processes
damage         which files or arrays are not what was saved
fit            why a checkpoint does not fit the experiment, in words
directory      names, half-written and set-aside directories
listing        for `flaxmill checkpoints`
config         what a user sets
save_schedule  when a save is due
"""

# Users' configs import it from here.
from flaxmill.train.checkpoint.config import CheckpointConfig

__all__ = ["CheckpointConfig"]
