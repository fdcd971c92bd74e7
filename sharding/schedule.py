"""When the stages of a pipeline work on which microbatch, and how long they wait."""

# S stages, R rounds, M microbatches

from typing import NamedTuple


class Pipeline(NamedTuple):
    """A schedule; the default has one stage, which waits for nobody."""

    num_stages: int = 1
    num_microbatches: int = 1
    num_rounds: int = 1

    @property
    def ticks(self) -> int:
        """How often each stage runs its layers of a round: for each microbatch and round, and while the
        others fill and empty the pipeline."""
        return self.num_microbatches * self.num_rounds + self.num_stages - 1

    @property
    def bubble(self) -> float:
        """The share of its time in which a stage has nothing to do (Narayanan et al. 2021, section 2.2)."""
        return (self.num_stages - 1) / self.ticks


def microbatches(num_rows: int, num_stages: int) -> int:
    """The largest divisor of a group's rows up to twice its stages; 0 for no rows. With more, stages would
    wait less, and compute on fewer rows at once."""
    sizes = range(1, min(num_rows, 2 * num_stages) + 1)
    return max((size for size in sizes if num_rows % size == 0), default=0)
