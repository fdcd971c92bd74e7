"""The weights of one run as the beginning of another: the whole body, and the head where both have it."""

from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.apply import Params, abstract_params, init_params
from flaxmill.model.heads import HEAD_PARAMETERS
from flaxmill.train.checkpoint import Checkpoints
from flaxmill.train.experiment import Experiment
from flaxmill.train.provenance import tokenizer_digest
from flaxmill.train.run_directory import CHECKPOINTS, TOKENIZER_FILE, read_config
from flaxmill.train.state import placed_params


def initial_params(
    experiment: Experiment, mesh: Mesh, tokenizer: Tokenizer, say: Callable[[str], None]
) -> Params:
    """The newest parameters of the run `experiment.init_from`, on the mesh.

    Groups of the head that this model has and that one lacks are drawn from the seed; those that this model
    lacks are left out. `say` is told both.

    Raises:
      ValueError: there is no such run, it has no checkpoint, or its tokenizer is another.
      CheckpointError: its body is not that of `experiment.model`, or no checkpoint is whole.
    """
    assert experiment.init_from is not None
    run = Path(experiment.init_from)
    theirs = _read_run(run, tokenizer)
    wanted, stored = placed_params(experiment.model, mesh), abstract_params(theirs.model)
    fresh = [group for group in HEAD_PARAMETERS if group in wanted and group not in stored]
    unused = [group for group in HEAD_PARAMETERS if group in stored and group not in wanted]
    with Checkpoints(run / CHECKPOINTS, theirs.checkpoint, read_only=True) as checkpoints:
        loaded = checkpoints.load_newest(
            lambda step: checkpoints.restore_params(step, wanted, without=(*fresh, *unused)), say
        )
    if loaded is None:
        raise ValueError(
            f"init_from={run} holds no checkpoint yet; train it first, or wait for its first save"
        )
    if fresh:
        say(f"{run} lacks {' and '.join(fresh)}: drawn from seed {experiment.seed}")
        loaded |= _draw(experiment, wanted, fresh)
    if unused:
        say(f"{run} has {' and '.join(unused)}, which this model has not: left out")
    return loaded


def _read_run(run: Path, tokenizer: Tokenizer) -> Experiment:
    if not (run / CHECKPOINTS).is_dir():
        raise ValueError(
            f"init_from={run} is no run; give a run directory (`flaxmill import DIR RUN` makes one of a "
            "Hugging Face model)"
        )
    theirs = read_config(run)
    file = run / TOKENIZER_FILE
    if file.is_file() and tokenizer_digest(Tokenizer.load(file)) != tokenizer_digest(tokenizer):
        raise ValueError(
            f"init_from={run} was trained with another tokenizer, so its embeddings mean other words; "
            f"use --data.tokenizer {file}"
        )
    return theirs


def _draw(experiment: Experiment, wanted: Params, groups: list[str]) -> Params:
    """These groups as `init_params` draws them; no others are computed."""

    def draw() -> Params:
        params = init_params(experiment.model, jax.random.key(experiment.seed))
        return {group: params[group] for group in groups}

    shardings = jax.tree.map(lambda leaf: leaf.sharding, {group: wanted[group] for group in groups})
    return jax.jit(draw, out_shardings=shardings)()
