"""Starts a run with the weights of another model: the whole body, and the head where both have it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.adapters import merge_lora, with_fresh_adapters
from flaxmill.model.functional import abstract_params, init_params
from flaxmill.model.heads import HEAD_PARAMETERS
from flaxmill.model.huggingface.directory import load_huggingface
from flaxmill.model.layers.lora import with_lora_of, without_lora
from flaxmill.model.params import Params
from flaxmill.train.checkpoint.checkpoints import Checkpoints
from flaxmill.train.experiment import Experiment
from flaxmill.train.run.directory import CHECKPOINTS, read_trained_config
from flaxmill.train.run.provenance import tokenizer_digest
from flaxmill.train.run.source import check_body, is_huggingface, read_source
from flaxmill.train.state import placed_params


def initial_params(
    experiment: Experiment, mesh: Mesh, tokenizer: Tokenizer, say: Callable[[str], None]
) -> Params:
    """The parameters of `experiment.init_from` on the mesh; if it is a run, of its newest checkpoint.

    Groups of the head that only this model has are drawn from the seed; groups that only the other model has
    are left out. `say` is told both.

    Raises:
      ValueError: there is no such model, it has no checkpoint, or it has another tokenizer or body than
        `experiment.model`.
      CheckpointError: no checkpoint is whole.
    """
    assert experiment.init_from is not None
    path, source = Path(experiment.init_from), read_source(experiment)
    if source.tokenizer is not None:
        _check_tokenizer(path, source.tokenizer, tokenizer)
    check_body(experiment.model, source.model, path)
    model = experiment.model
    base = dataclasses.replace(experiment, model=without_lora(model))
    loaded = _load_huggingface(base, mesh) if is_huggingface(path) else _load_run(path, base, mesh, say)
    if model.lora_rank is None:
        return loaded
    return with_fresh_adapters(model, loaded, jax.random.key(experiment.seed), mesh)


def _check_tokenizer(path: Path, theirs: Path, ours: Tokenizer) -> None:
    if tokenizer_digest(Tokenizer.load(theirs)) != tokenizer_digest(ours):
        raise ValueError(
            f"init_from={path} was trained with another tokenizer, so its embeddings mean other words; "
            f"use --data.tokenizer {theirs}"
        )


def _load_run(run: Path, experiment: Experiment, mesh: Mesh, say: Callable[[str], None]) -> Params:
    """Load the run's whole body, with its own adapters merged into it."""
    theirs = read_trained_config(run)
    adapted = with_lora_of(experiment.model, theirs.model)
    wanted, stored = placed_params(adapted, mesh), abstract_params(theirs.model)
    of_head = [group for group in HEAD_PARAMETERS if group in wanted]
    fresh = [group for group in of_head if _shapes(stored.get(group)) != _shapes(wanted[group])]
    unused = [group for group in HEAD_PARAMETERS if group in stored and group not in wanted]
    with Checkpoints(run / CHECKPOINTS, theirs.checkpoint, read_only=True) as checkpoints:
        loaded = checkpoints.load_newest(
            lambda stored: stored.restore_params(wanted, without=(*fresh, *unused)), say
        )
    if loaded is None:
        raise ValueError(
            f"init_from={run} holds no checkpoint yet; train it first, or wait for its first save"
        )
    if fresh:
        say(f"{run} lacks {' and '.join(fresh)}: drawn from seed {experiment.seed}")
        loaded |= _draw(experiment, wanted, fresh)
    if unused:
        say(f"{run} has {' and '.join(unused)}, which this model does not have: left out")
    return merge_lora(adapted, loaded)[1]


def _load_huggingface(experiment: Experiment, mesh: Mesh) -> Params:
    """The model, with its head if the files have a head for as many classes; the log tells of a new head."""
    assert experiment.init_from is not None
    model = experiment.model
    _, params = load_huggingface(
        experiment.init_from,
        head=model.head,
        num_labels=model.num_classes if model.head != "qa" else None,
        mesh=mesh,
        key=jax.random.key(experiment.seed),
    )
    return params


def _shapes(tree: Params | None) -> object:
    return jax.tree.map(lambda leaf: leaf.shape, tree)


def _draw(experiment: Experiment, wanted: Params, groups: list[str]) -> Params:
    """Draw these groups as `init_params` does; no others are computed."""

    def draw() -> Params:
        params = init_params(experiment.model, jax.random.key(experiment.seed))
        return {group: params[group] for group in groups}

    shardings = jax.tree.map(lambda leaf: leaf.sharding, {group: wanted[group] for group in groups})
    return jax.jit(draw, out_shardings=shardings)()
