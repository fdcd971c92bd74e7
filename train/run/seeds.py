"""The same experiment under several seeds: how much of a score is the experiment's, and how much is luck."""

import dataclasses
import statistics
from collections.abc import Sequence

from flaxmill.data.files.local_paths import local_path
from flaxmill.train.experiment import Experiment


def seeded(experiment: Experiment, num_seeds: int) -> list[Experiment]:
    """The experiment with its seed and the next ones, each with a run directory of its own.

    Raises:
      ValueError: there is no run directory to keep them together in, or fewer than two seeds.
    """
    if num_seeds < 2:
        raise ValueError(f"--num-seeds={num_seeds} must be 2 or more; leave it out for one run")
    if experiment.run_dir is None:
        raise ValueError(f"--num-seeds={num_seeds} needs a place for its runs; give --run-dir")
    seeds = range(experiment.seed, experiment.seed + num_seeds)
    folder = local_path(experiment.run_dir, "run_dir")
    return [
        dataclasses.replace(experiment, seed=seed, run_dir=str(folder / f"seed-{seed}")) for seed in seeds
    ]


def describe_spread(metrics: Sequence[dict[str, float]]) -> str:
    """A table: mean and sample deviation of each number that all runs have."""
    names = [name for name in metrics[0] if all(name in each for each in metrics)]
    width = max(map(len, names), default=0)
    lines = [f"{len(metrics)} seeds".ljust(width) + "      mean  deviation"]
    for name in names:
        values = [each[name] for each in metrics]
        lines.append(f"{name:{width}}  {statistics.mean(values):8.4f}  {statistics.stdev(values):9.4f}")
    return "\n".join(lines)
