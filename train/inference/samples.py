"""What a model learned, in words: a prompt continued, masked words filled in, or a target written."""

import jax
import numpy as np
from jax.sharding import Mesh
from tokenizers import decoders

from flaxmill.data.batches import Batches
from flaxmill.data.conversations.rendering import find_turn_end, make_question_reader
from flaxmill.data.examples.framing import make_prompt_reader
from flaxmill.data.objectives import find_function
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.generation.config import GenerationConfig, check_prompts, room
from flaxmill.model.generation.generator import Generator, generate
from flaxmill.model.generation.mask_filling import fill_masks
from flaxmill.model.params import Params
from flaxmill.sharding.placement import place_rows
from flaxmill.sharding.rules import ACTIVATION_RULES, mesh_axes, num_shards
from flaxmill.train.experiment import Experiment
from flaxmill.train.inference.text_model import with_decoder_start
from flaxmill.train.run.token_ids import with_token_ids
from flaxmill.train.state import placed_params

SAMPLE_TOKENS = 60
SAMPLE_CHARACTERS = 300


def sample_text(
    experiment: Experiment, params: Params, batches: Batches, tokenizer: Tokenizer, mesh: Mesh
) -> str:
    """A few lines for a person to read at the end of a run, as the objective makes them."""
    make = experiment.definition.sample
    assert make is not None, "the objective shows no sample"
    with jax.set_mesh(mesh):
        return find_function(make)(experiment, params, batches, tokenizer, mesh)


def continuation(
    experiment: Experiment, params: Params, batches: Batches, tokenizer: Tokenizer, mesh: Mesh
) -> str:
    """`experiment.prompt`, continued by a model that predicts the next token."""
    kept, options = _to_continue(experiment, tokenizer)
    tokens = generate(experiment.model, params, [kept], options)[0]
    before, whole = (tokenizer.decode(ids, skip_specials=False) for ids in (kept, [*kept, *tokens]))
    continued = whole[len(before) :]
    return f"{experiment.prompt!r} continues:\n{experiment.prompt}{continued}"


def compile_continuation(experiment: Experiment, tokenizer: Tokenizer, mesh: Mesh) -> None:
    """Compile what `continuation` calls on the mesh, if it is of one device.

    On several it is not known before the first token how the state is split that the next tokens need.
    """
    if mesh.size > 1:
        return
    kept, options = _to_continue(experiment, tokenizer)
    with jax.set_mesh(mesh):
        Generator(experiment.model, placed_params(experiment.model, mesh)).compile([kept], options)


def _to_continue(experiment: Experiment, tokenizer: Tokenizer) -> tuple[list[int], GenerationConfig]:
    """The prompt's tokens, and how they are continued."""
    read = make_prompt_reader(tokenizer, experiment.data.framing, markup=True)
    prompt = read(experiment.prompt) or [tokenizer.end_id or 0]
    options = GenerationConfig(
        max_new_tokens=SAMPLE_TOKENS, temperature=0.8, top_k=40, seed=experiment.seed, end_ids=()
    )
    # Keep only the end of a long prompt: at least half of the positions are for new tokens.
    positions = room(experiment.model, 0)
    kept = prompt if positions is None else prompt[-max(positions - SAMPLE_TOKENS, positions // 2, 1) :]
    return kept, options


def answer(experiment: Experiment, params: Params, batches: Batches, tokenizer: Tokenizer, mesh: Mesh) -> str:
    """`experiment.prompt` as a user's turn, and the assistant's turn that the model writes."""
    end = find_turn_end(tokenizer)
    options = GenerationConfig(max_new_tokens=SAMPLE_TOKENS, end_ids=() if end is None else (end,))
    try:
        question = make_question_reader(tokenizer)(experiment.prompt)
        check_prompts(experiment.model, [question])
    except ValueError as error:
        return f"no sample, for {error}"
    written = generate(experiment.model, params, [question], options)[0]
    return f"user:      {experiment.prompt}\nassistant: {tokenizer.decode(written)[:SAMPLE_CHARACTERS]}"


def filled_text(
    experiment: Experiment, params: Params, batches: Batches, tokenizer: Tokenizer, mesh: Mesh
) -> str:
    """The start of a held-out text, with its masked words filled in."""
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


def written_target(
    experiment: Experiment, params: Params, batches: Batches, tokenizer: Tokenizer, mesh: Mesh
) -> str:
    """The start of a held-out source, and what an encoder-decoder writes for it."""
    rows = batches.rows(0, 0, min(_num_rows(mesh), batches.batch_size))
    source = rows["tokens"][0][rows["mask"][0] > 0].tolist()
    target = rows["targets"][0][rows["weights"][0] > 0].tolist()
    config = with_decoder_start(with_token_ids(experiment.model, tokenizer), tokenizer)
    options = GenerationConfig(max_new_tokens=len(target), end_ids=config.end_ids)
    written = generate(config, params, [source], options)[0]
    spell = lambda ids: tokenizer.decode(ids, skip_specials=False)[:SAMPLE_CHARACTERS]  # noqa: E731
    return f"reads:  {spell(source)}\nwrites: {spell(written)}\ntruth:  {spell(target)}"


def _num_rows(mesh: Mesh) -> int:
    """As few rows as the mesh splits evenly; only the first is shown."""
    rows = mesh_axes("batch", ACTIVATION_RULES, mesh)
    return num_shards(rows, mesh)
