"""How likely a model finds texts: log-likelihoods of decoders, pseudo-log-likelihoods of encoders."""

# B rows, T tokens, P places of a row that are scored, D model

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmill.model.config import ModelConfig
from flaxmill.model.functional import bind
from flaxmill.model.params import Params
from flaxmill.model.transformer import Batch, complete_batch
from flaxmill.sharding.placement import num_row_shards, place_rows
from flaxmill.train.inference.encoded_texts import EncodedTexts, longest_text, make_encoder
from flaxmill.train.inference.loaded_model import LoadedModel
from flaxmill.train.inference.packed_rows import BATCH_SIZE, PackedRows, pack
from flaxmill.train.objectives.losses import SumOptions, token_losses
from flaxmill.train.objectives.table import objective_of

Kind = Literal["log_likelihood", "pseudo_log_likelihood"]

# Texts, each with one token masked, that are packed together.
_COPIES_AT_ONCE = 2**15


class Score(NamedTuple):
    """How likely a text is: natural logarithms, and the ids that they belong to, in order."""

    tokens: list[int]
    log_probabilities: list[float]

    @property
    def log_probability(self) -> float:
        """The sum over the tokens."""
        return math.fsum(self.log_probabilities)

    @property
    def perplexity(self) -> float | None:
        """exp of the mean -log probability of a token; None for a text of which no token is scored."""
        return perplexity(self.log_probability, len(self.tokens))


class Scored(NamedTuple):
    """A score for each text, what the scores are, and how many texts were cut to how many tokens."""

    scores: list[Score]
    kind: Kind
    num_cut: int
    limit: int | None


def perplexity(log_probability: float, num_tokens: int) -> float | None:
    """exp(-log_probability / num_tokens); None without tokens."""
    return (
        math.exp(min(-log_probability / num_tokens, 700.0)) if num_tokens else None
    )  # what a float can hold


def score_texts(
    model: LoadedModel,
    texts: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
    tell: Callable[[int], None] = lambda num_tokens: None,
) -> Scored:
    """A score for each text, in order, with the special tokens that the tokenizer puts around it.

    A causal model scores every token but the first, which nothing precedes: where the tokenizer begins texts
    with a special token, that is every token of the text. A masked-language model scores each token of the
    text with that one masked and all others there, and none of the special tokens around it (Salazar et al.
    2020, eq. 3); it computes as many rows as the text has tokens.

    Args:
      batch_size: rows of 64 tokens that are computed together.
      tell: is told how many rows have been computed: texts, or texts with one token masked.

    Raises:
      ValueError: the model predicts no tokens of a text, or a text cannot be encoded.
    """
    kind = kind_of(model)
    limit = longest_text(model.config, model.tokenizer)
    encoded = make_encoder(model.tokenizer, limit)(texts)
    run = _Run(model, batch_size, limit, tell)
    scores = run.causal(encoded) if kind == "log_likelihood" else run.masked(encoded)
    return Scored(scores, kind, encoded.num_cut, limit)


def kind_of(model: LoadedModel) -> Kind:
    """What the model's scores are. Raises ValueError where it predicts no tokens of a text."""
    config = model.config
    if config.encoder_layers is not None:
        raise ValueError(
            f"{model.source} is an encoder-decoder, which predicts a target from a source and scores no text "
            "alone; measure pairs with `flaxmill eval --data FILE`"
        )
    if config.head == "lm":
        return "log_likelihood"
    if config.head not in ("mlm", "mlm_nsp"):
        raise ValueError(
            f"{model.source} has the head {config.head}, which predicts no tokens; score with a model "
            "with the head lm, mlm or mlm_nsp"
        )
    if model.tokenizer.mask_id is None:
        raise ValueError("the tokenizer has no mask token; name it as mask_token in tokenizer_config.json")
    return "pseudo_log_likelihood"


class _Run(NamedTuple):
    """What computing the scores of many texts takes."""

    model: LoadedModel
    batch_size: int
    limit: int | None
    tell: Callable[[int], None]

    def causal(self, encoded: EncodedTexts) -> list[Score]:
        scores = [Score(ids[1:], []) for ids in encoded.ids]
        num_done = 0
        for packed in self._pack(encoded.ids):
            places_BT = np.broadcast_to(
                np.arange(packed.tokens.shape[1], dtype=np.int32), packed.tokens.shape
            )
            # A place predicts the next one; what it makes of another text's first token is not read.
            log_probs_BT = self._compute(packed, places_BT, np.roll(packed.tokens, -1, axis=1))
            for row, slot in np.argwhere(packed.numbers >= 0):
                score, start = scores[packed.numbers[row, slot]], packed.starts[row, slot]
                score.log_probabilities.extend(log_probs_BT[row, start : start + len(score.tokens)].tolist())
            self.tell(num_done := num_done + int((packed.numbers >= 0).sum()))
        return scores

    def masked(self, encoded: EncodedTexts) -> list[Score]:
        mask_id, num_done = self.model.tokenizer.mask_id, 0
        assert mask_id is not None, "kind_of has refused it"
        scores = [Score([], []) for _ in encoded.ids]
        places = (
            (number, place)
            for number, is_text in enumerate(encoded.is_text)
            for place in np.flatnonzero(is_text).tolist()
        )
        while part := list(itertools.islice(places, _COPIES_AT_ONCE)):
            copies = [list(encoded.ids[number]) for number, _ in part]
            for copy, (_, place) in zip(copies, part, strict=True):
                copy[place] = mask_id
            found = np.zeros(len(part))
            masked = np.array([place for _, place in part])
            targets = np.array([encoded.ids[number][place] for number, place in part])
            for packed in self._pack(copies):
                is_copy_BP = packed.numbers >= 0
                numbers_BP = np.where(is_copy_BP, packed.numbers, 0)
                places_BP = np.where(is_copy_BP, packed.starts + masked[numbers_BP], 0).astype(np.int32)
                log_probs_BP = self._compute(packed, places_BP, targets[numbers_BP].astype(np.int32))
                found[packed.numbers[is_copy_BP]] = log_probs_BP[is_copy_BP]
                self.tell(num_done := num_done + int(is_copy_BP.sum()))
            for (number, _), target, value in zip(part, targets.tolist(), found.tolist(), strict=True):
                scores[number].tokens.append(target)
                scores[number].log_probabilities.append(value)
        return scores

    def _pack(self, ids: Sequence[Sequence[int]]) -> Iterator[PackedRows]:
        config, shards = self.model.config, num_row_shards(self.model.mesh)
        shares = config.expert_capacity is None  # else a text's experts depend on its neighbours
        return pack(ids, batch_size=self.batch_size, limit=self.limit, multiple=shards, shares=shares)

    def _compute(self, packed: PackedRows, places_BP: np.ndarray, targets_BP: np.ndarray) -> np.ndarray:
        model, rows = self.model, {"tokens": packed.tokens, "documents": packed.documents}
        if model.config.head == "lm" and not model.config.causal:  # a hybrid, which is told for each row
            rows["causal"] = np.ones(len(packed.tokens), np.int32)
        rows |= {"predicted": places_BP, "wanted": targets_BP}
        with jax.set_mesh(model.mesh):
            placed = place_rows(model.mesh, rows, len(packed.tokens))
            return np.asarray(_log_probabilities(model.config, model.params, placed))


@functools.partial(jax.jit, static_argnums=0)
def _log_probabilities(config: ModelConfig, params: Params, batch: Batch) -> jax.Array:
    """float32 [B,P]: log p of `wanted` [B,P] at the places `predicted` [B,P] of each row."""
    model = bind(config, params)
    hidden_BTD = model(complete_batch(config, batch))
    hidden_BPD = jnp.take_along_axis(hidden_BTD, batch["predicted"][..., None], axis=1)
    return -token_losses(model, hidden_BPD, batch["wanted"], SumOptions(objective_of("causal"))).nll
