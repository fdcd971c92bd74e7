"""From a prepared dataset to global arrays on the mesh, read ahead while the device works."""

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from flaxmill.data.batches import Batches
from flaxmill.data.config import TRAINED, DataConfig
from flaxmill.data.mixture.mixed_batches import MixedBatches
from flaxmill.data.mixture.mixed_dataset import AnyDataset, MixedDataset
from flaxmill.data.mixture.preparation import for_each_source, prepare_mixture
from flaxmill.data.preparation.cache import finish_shards, prepare, prepare_shard
from flaxmill.data.preparation.groups import MachineShard
from flaxmill.data.preparation.means import LOCAL, Means
from flaxmill.data.prepared.dataset import Dataset
from flaxmill.data.text.held_out import Split
from flaxmill.sharding.placement import local_rows, local_tokens, place_parts
from flaxmill.train.experiment import Experiment
from flaxmill.train.run.directory import TOKENIZER_FILE

# The threads that read batches, and the batches that they are ahead of the loop. A bucket mounted as a file
# system takes some 50 ms for a batch, or 100 ms if it lies in several files: half of the sixteen, the fewest
# that are being read, are enough for steps of 12 ms.
_MOST_AHEAD = 16
# Large batches have long steps and need fewer: the batches ahead take this much memory, or are two.
_BYTES_AHEAD = 64 * 1024 * 1024
_LEAST_AHEAD = 2


def prepare_data(
    experiment: Experiment, cache: Path, log: Callable[[str], None], means: Means = LOCAL
) -> AnyDataset:
    """The experiment's dataset, with rows as its model reads them, from the cache or made there.

    Args:
      means: what prepares text that is not in the cache.
    """
    may_encode = experiment.definition.encoder != "none"
    has_encoder = may_encode and experiment.model.encoder_layers is not None
    data = _with_kept_tokenizer(experiment)
    make = prepare_mixture if data.sources else prepare
    return make(data, experiment.objective, cache=cache, log=log, has_encoder=has_encoder, means=means)


def prepare_data_shard(
    experiment: Experiment, shard: MachineShard, cache: Path, log: Callable[[str], None], means: Means
) -> None:
    """Encodes one machine's share of the experiment's text."""
    _do_with_shards(functools.partial(prepare_shard, shard=shard), experiment, cache, log, means)


def finish_data_shards(experiment: Experiment, cache: Path, log: Callable[[str], None], means: Means) -> None:
    """Makes the experiment's dataset from what all machines encoded."""
    _do_with_shards(finish_shards, experiment, cache, log, means)


def _do_with_shards(
    do: Callable[..., object],
    experiment: Experiment,
    cache: Path,
    log: Callable[[str], None],
    means: Means,
) -> None:
    data = _with_kept_tokenizer(experiment)
    if data.sources:
        for_each_source(do, data, experiment.objective, cache=cache, log=log, means=means)
    else:
        do(data, experiment.objective, cache=cache, log=log, means=means)


def _with_kept_tokenizer(experiment: Experiment) -> DataConfig:
    """The data config, with the run's own copy of a tokenizer if its file is gone.

    The file may be gone together with the model that the run started from.
    """
    data, kept = experiment.data, Path(experiment.run_dir or "") / TOKENIZER_FILE
    if experiment.run_dir is None or data.tokenizer in TRAINED or Path(data.tokenizer).is_file():
        return data
    return dataclasses.replace(data, tokenizer=str(kept.absolute())) if kept.is_file() else data


def make_batches(dataset: Dataset, split: Split, experiment: Experiment) -> Batches:
    """The rows of one split; held-out rows are in batches that fit wherever a training microbatch does."""
    return Batches(dataset, split, **_settings(experiment, split))


def make_train_batches(dataset: AnyDataset, experiment: Experiment) -> Batches | MixedBatches:
    """The training rows, from one dataset or from a mixture of several.

    Raises ValueError where the epochs that the sources of a mixture allow end before the run.
    """
    if not isinstance(dataset, MixedDataset):
        return make_batches(dataset, "train", experiment)
    batches = MixedBatches(dataset, **_settings(experiment, "train"))
    batches.check_length(experiment.steps)
    return batches


def with_steps(experiment: Experiment, dataset: AnyDataset, log: Callable[[str], None]) -> Experiment:
    """The experiment with the steps that its `epochs` come to, if it has any; what they come to is logged.

    Raises ValueError where they are more than a run may have.
    """
    if experiment.epochs is None:
        return experiment
    assert not isinstance(dataset, MixedDataset), "an experiment refuses epochs of a mixture"
    batches = make_batches(dataset, "train", experiment)
    steps = -(-batches.count_rows(experiment.epochs) // experiment.batch_size)
    log(
        f"epochs={experiment.epochs:g} of {batches.num_rows:,} rows come to {steps:,} steps of "
        f"{experiment.batch_size}"
    )
    return dataclasses.replace(experiment, steps=steps)


class HeldOut(NamedTuple):
    """Held-out rows: those of each source that is trained on, and of further text, by name."""

    sources: dict[str, Batches]
    extra: dict[str, Batches]

    @property
    def first(self) -> Batches:
        return next(iter(self.sources.values()))


def make_held_out(dataset: AnyDataset, experiment: Experiment) -> HeldOut:
    """The held-out rows; a run that mixes nothing has one source, without a name."""
    if not isinstance(dataset, MixedDataset):
        return HeldOut({"": make_batches(dataset, "valid", experiment)}, {})
    make = lambda dataset: make_batches(dataset, "valid", experiment)  # noqa: E731
    return HeldOut(
        {name: make(part) for name, part in dataset.sources.items()},
        {name: make(part) for name, part in dataset.held_out.items()},
    )


def _settings(experiment: Experiment, split: Split) -> dict[str, Any]:
    return {
        "config": experiment.data,
        "objective": experiment.objective,
        "batch_size": experiment.batch_size if split == "train" else eval_batch_size(experiment),
        "seed": experiment.seed,
        "decoder_start_id": experiment.model.decoder_start_id,
    }


def eval_batch_size(experiment: Experiment) -> int:
    """Rows of an evaluation step."""
    return experiment.batch_size // experiment.accumulate


def read_ahead(
    batches: Batches | MixedBatches,
    mesh: Mesh,
    first: int,
    last: int,
    *,
    zigzag: bool,
    batch_offset: int = 0,
) -> Generator[tuple[int, dict[str, jax.Array], float]]:
    """(step, global batch, seconds waited for it) for the steps from `first` to before `last`.

    Step s reads batch s + `batch_offset`; `zigzag` is that of `place_parts`. Threads read and place the
    batches ahead. If one cannot be read, its error is raised at its step. Close the generator to end the
    reading.
    """
    start, stop = local_rows(mesh, batches.batch_size)
    tokens = local_tokens(mesh, batches.num_tokens, zigzag=zigzag)

    def make(step: int) -> dict[str, jax.Array]:
        parts = batches.parts(step + batch_offset, start, stop, tokens)
        return place_parts(mesh, parts, batches.batch_size, zigzag=zigzag)

    pool = ThreadPoolExecutor(_MOST_AHEAD, "batch")
    waiting: deque[Future[dict[str, jax.Array]]] = deque()
    steps, num_ahead = iter(range(first, last)), _LEAST_AHEAD
    try:
        for step in range(first, last):
            started = time.perf_counter()
            # Waking threads costs more than all else here, so they are given several batches at once.
            if len(waiting) <= num_ahead // 2:
                waiting += [pool.submit(make, s) for s in islice(steps, num_ahead + 1 - len(waiting))]
            batch = waiting.popleft().result()
            yield step, batch, time.perf_counter() - started
            if step == first:
                num_ahead = _batches_ahead(batch)
    finally:
        # A thread that reads ends with its batch, and the loop does not wait for it.
        pool.shutdown(wait=False, cancel_futures=True)


def _batches_ahead(batch: dict[str, jax.Array]) -> int:
    """How many batches like this one are read ahead, by what it takes on this process's devices."""
    num_bytes = sum(shard.data.nbytes for array in batch.values() for shard in array.addressable_shards)
    return max(_LEAST_AHEAD, min(_MOST_AHEAD, _BYTES_AHEAD // num_bytes))
