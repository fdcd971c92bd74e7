"""Training: `from flaxmill.train import Experiment, train`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxmill.train.experiment import Experiment
    from flaxmill.train.loop import train

__all__ = ["Experiment", "train"]


def __getattr__(name: str) -> Any:
    # On demand: the command line imports this package, and `flaxmill --help` must not wait for JAX.
    if name == "Experiment":
        from flaxmill.train.experiment import Experiment

        return Experiment
    if name == "train":
        from flaxmill.train.loop import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
