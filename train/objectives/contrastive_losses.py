"""Contrastive learning of sentence vectors: each first text is to be nearest to its own second one."""

# B pairs on a device, N on all, T tokens of both texts, D model, 2: the first and the second text

import jax
import jax.numpy as jnp

from flaxmill.model.pooling import normalize, pool_documents
from flaxmill.model.transformer import Batch, Transformer
from flaxmill.sharding.local_rows import rows_of_all_devices
from flaxmill.sharding.local_tokens import share_of_row
from flaxmill.train.objectives.losses import SumOptions, Sums


def pair_vectors(model: Transformer, batch: Batch, options: SumOptions) -> jax.Array:
    """float32 [B,2,D]: the tokens of each text, pooled, with length 1."""
    hidden_BTD, pooling = model(batch, options.key), options.pooling
    return normalize(pool_documents(hidden_BTD, batch["documents"], 2, pooling, batch["positions"]))


def contrastive_sums(model: Transformer, batch: Batch, options: SumOptions) -> Sums:
    """Sums over pairs of -log softmax of a first text's cosine / temperature with its own second text, among
    the second texts of the whole batch (van den Oord et al. 2018, eq. 4, with in-batch negatives as in
    Henderson et al. 2017): sentence-transformers' MultipleNegativesRankingLoss with a scale of
    1 / temperature. A pair is right where no second text is nearer than its own.
    """
    vectors_B2D = pair_vectors(model, batch, options)
    with jax.named_scope("contrastive_loss"):
        first_BD, second_BD = vectors_B2D[:, 0], vectors_B2D[:, 1]
        exists_B = batch["weights"]  # 0 for a row of padding
        second_ND, exists_N = rows_of_all_devices(second_BD), rows_of_all_devices(exists_B)
        cosines_BN = jnp.where(exists_N > 0, first_BD @ second_ND.T, -1.0)
        own_B = (first_BD * second_BD).sum(-1)
        logits_BN = jnp.where(exists_N > 0, cosines_BN / options.temperature, -jnp.inf)
        # A row of padding has no pair at all, and counts nothing.
        all_B = jax.nn.logsumexp(jnp.where(exists_B[:, None] > 0, logits_BN, 0.0), axis=-1)
        nearer_B = (cosines_BN > own_B[:, None] + _SAME).any(-1)
        weights_B = exists_B * share_of_row()
        return {
            "contrastive": (weights_B * (all_B - own_B / options.temperature)).sum(),
            "contrastive_correct": (weights_B * ~nearer_B).sum(),
        }


_SAME = 1e-6  # a text's own cosine is computed twice, and rounded differently
