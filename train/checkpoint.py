"""Checkpoints: atomic, asynchronous, checked against digests, restorable onto any mesh."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = 500
    """Steps between saves; the last step is saved too."""
    keep_last: int = 2
    """Newest checkpoints to keep."""
    keep_every: int | None = None
    """Also keep every checkpoint whose step is a multiple of this; None: only the newest."""

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("keep_last", 1), ("keep_every", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"checkpoint.{name}={value} must be at least {least}")
