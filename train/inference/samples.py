"""What a model learned, in words: a continuation of a prompt, or masked words filled in."""

import jax
import numpy as np
from jax.sharding import Mesh
from tokenizers import decoders

from flaxmill.data.batches import Batches
from flaxmill.data.examples.framing import make_prompt_reader
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.apply import Params
from flaxmill.model.generation.config import GenerationConfig, room
from flaxmill.model.generation.generator import generate
from flaxmill.model.generation.mask_filling import fill_masks
from flaxmill.sharding.placement import place_rows
from flaxmill.sharding.rules import ACTIVATION_RULES, mesh_axes, num_shards
from flaxmill.train.experiment import Experiment

SAMPLE_TOKENS = 60
SAMPLE_CHARACTERS = 300


def sample_text(
    experiment: Experiment, params: Params, batches: Batches, tokenizer: Tokenizer, mesh: Mesh
) -> str:
    """A few lines for a person to read at the end of a run; for objectives that predict the next token, a
    continuation of `experiment.prompt`, for the others a held-out text with its gaps filled."""
    with jax.set_mesh(mesh):
        if experiment.objective in ("causal", "hybrid"):
            return _continuation(experiment, params, tokenizer)
        return _filled_text(experiment, params, batches, tokenizer, mesh)


def _continuation(experiment: Experiment, params: Params, tokenizer: Tokenizer) -> str:
    read = make_prompt_reader(tokenizer, experiment.data.framing, markup=True)
    prompt = read(experiment.prompt) or [tokenizer.end_id or 0]
    options = GenerationConfig(
        max_new_tokens=SAMPLE_TOKENS, temperature=0.8, top_k=40, seed=experiment.seed, end_ids=()
    )
    # Of a long prompt its end: at least half of the model's positions are for what is new.
    positions = room(experiment.model, 0)
    kept = prompt if positions is None else prompt[-max(positions - SAMPLE_TOKENS, positions // 2, 1) :]
    tokens = generate(experiment.model, params, [kept], options)[0]
    before, whole = (tokenizer.decode(ids, skip_specials=False) for ids in (kept, [*kept, *tokens]))
    continued = whole[len(before) :]
    return f"{experiment.prompt!r} continues:\n{experiment.prompt}{continued}"


def _filled_text(
    experiment: Experiment, params: Params, batches: Batches, tokenizer: Tokenizer, mesh: Mesh
) -> str:
    assert tokenizer.mask_id is not None
    rows = batches.rows(0, 0, min(_num_rows(mesh), batches.batch_size))
    batch = place_rows(mesh, rows, len(rows["tokens"]))
    filled = fill_masks(experiment.model, params, batch, tokenizer.mask_id)[0]
    real = rows["mask"][0].astype(bool)
    tokens, targets, weights = rows["tokens"][0], rows["targets"][0], rows["weights"][0]
    words = []
    for place in np.flatnonzero(real):
        piece = tokenizer.decode([int(filled[place])], skip_specials=False)
        if tokens[place] == tokenizer.mask_id and weights[place]:
            truth = tokenizer.decode([int(targets[place])], skip_specials=False)
            piece = f"[{piece}]" if piece == truth else f"[{piece}, was {truth}]"
        words.append(piece)
    # Other pieces bring their blanks along, WordPiece's do not.
    is_word_piece = isinstance(tokenizer.inner.decoder, decoders.WordPiece)
    text = " ".join(words).replace(" ##", "") if is_word_piece else "".join(words)
    return f"masked words filled, in brackets, with the truth where it differs:\n{text[:SAMPLE_CHARACTERS]}"


def _num_rows(mesh: Mesh) -> int:
    """As few rows as the mesh splits evenly; the first is shown."""
    rows = mesh_axes("batch", ACTIVATION_RULES, mesh)
    return num_shards(rows, mesh)
