"""PyTorch's side of step.py: a short GPT of its own, or transformers' BERT or Marian."""

# B batch, T tokens, N heads, H head dim

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional

from flaxmill.train.experiment import Experiment
from sides.mfu_torch import make_loss, make_torch_model


class Block(nn.Module):
    """A layer of a GPT: attention and MLP after their norms."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, D = x.shape
        parts = self.queries_keys_values(self.attention_norm(x)).split(D, dim=2)
        q, k, v = (part.view(B, T, self.num_heads, -1).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)
        mixed = self.out(mixed.transpose(1, 2).reshape(B, T, D))
        x = x + functional.dropout(mixed, self.dropout)
        hidden = functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh")
        return x + functional.dropout(self.down(hidden), self.dropout)


class GPT(nn.Module):
    """GPT-2's architecture with a tied head; returns the loss."""

    def __init__(self, vocab_size: int, num_tokens: int, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(num_tokens, width)
        self.layers = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for weight in (self.tokens.weight, self.positions.weight):
            nn.init.normal_(weight, std=0.02)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions.weight
        x = self.norm(self.layers(functional.dropout(x, self.dropout)))
        logits = functional.linear(x, self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_torch_step(experiment: Experiment, rows: dict[str, np.ndarray]) -> Callable[[], None]:
    """One update on these rows, at each call."""
    torch.manual_seed(0)
    config, settings = experiment.model, experiment.optimizer
    arrays = {name: torch.from_numpy(np.array(value)) for name, value in rows.items()}
    if experiment.objective == "causal":
        sizes = (config.vocab_size or 0, config.max_positions or 0, config.embed_dim)
        model: Any = GPT(*sizes, config.num_layers, config.num_heads, config.dropout)
        ids, targets = arrays["tokens"].long(), arrays["targets"].long()
        loss_of = functools.partial(model, ids, targets)
    else:
        model = make_torch_model(experiment)
        _set_dropout(model, config.dropout)
        loss_of = make_loss(model, arrays)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.dtype == "bfloat16"):
            loss = loss_of()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _set_dropout(model: transformers.PreTrainedModel, rate: float) -> None:
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = rate
        elif isinstance(vars(part).get("dropout"), float):  # Marian's layers and attention hold the rate
            vars(part)["dropout"] = rate
