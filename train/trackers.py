"""TensorBoard's event files, beside metrics.jsonl."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """Writes scalars to RUN/tensorboard.

    Raises:
      ValueError: tensorboardX is not installed.
    """

    def __init__(self, run_dir: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ValueError(
                "tensorboard=True needs the package tensorboardX; install it with `pip install "
                "'flaxmill[tracking]'`, or drop --tensorboard"
            ) from None
        self._writer = SummaryWriter(str(run_dir / "tensorboard"))

    def write(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()
