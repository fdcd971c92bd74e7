"""What a Transformer is made of: one frozen dataclass that describes every family."""

from dataclasses import dataclass
from typing import Literal

VOCAB_MULTIPLE = 128  # embeddings are stored padded to this, so that any tensor axis divides them

Head = Literal["lm", "mlm", "mlm_nsp"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One Transformer. Fields left `None` follow from the data, the objective or another field."""

    vocab_size: int | None = None
    """True number of token ids; None: as many as the tokenizer has."""
    max_positions: int | None = None
    """Longest row that learned positions can address; None: the data's sequence length."""
    num_layers: int = 2
    embed_dim: int = 128
    num_heads: int = 4
    num_kv_heads: int | None = None
    """Key-value heads of grouped-query attention (Ainslie et al. 2023); None: num_heads."""
    head_dim: int | None = None
    """None: embed_dim / num_heads."""
    mlp_dim: int | None = None
    """None: 4 x embed_dim."""
    causal: bool | None = None
    """True: a token attends to itself and what precedes it; None: as the objective needs."""
    head: Head | None = None
    """lm: next token; mlm: BERT's transform + decoder; mlm_nsp: also pooler and next-sentence head."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_position: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-5
    embedding_norm: bool = False
    """Normalise the sum of the embeddings, as BERT does."""
    positions: Literal["learned", "sinusoidal", "rotary"] = "learned"
    rope_theta: float = 10_000.0
    num_segments: int = 0
    """Segment (token type) embeddings; 0: none."""
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu_tanh"
    """gelu is the exact erf form, gelu_tanh its approximation."""
    gated_mlp: bool = False
    """Multiply the activation by a second projection (Shazeer 2020)."""
    use_bias: bool = True
    tie_embeddings: bool = True
    """The head reuses the token embeddings."""
    initializer: Literal["bert", "gpt2", "normal", "xavier"] = "gpt2"
    """bert: truncated normal; gpt2: normal, residual projections / sqrt(2 L); xavier: uniform."""
    initializer_std: float = 0.02
    dropout: float = 0.0
    attention_dropout: float | None = None
    """Dropout of attention probabilities; None: as dropout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype. Weights, norms, softmax and loss stay float32."""
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    """auto: splash on TPU, cuDNN on GPU, XLA elsewhere and where those cannot serve."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass keeps of a layer: all, its matrix products, or only its input."""
    scan_layers: bool = True
    """Compile one layer and loop over it; False unrolls: longer to compile, faster for few layers."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "embed_dim", "num_heads"):
            _require(getattr(self, name) >= 1, f"model.{name}={getattr(self, name)} must be at least 1")
        for name in ("vocab_size", "max_positions", "num_kv_heads", "head_dim", "mlp_dim"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"model.{name}={value} must be at least 1 or None")
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, f"model.{name}={value} must be in [0, 1)")
        _require(self.num_segments >= 0, f"model.num_segments={self.num_segments} must be 0 or more")
        _require(self.norm_epsilon > 0, f"model.norm_epsilon={self.norm_epsilon} must be positive")
        for name in ("initializer_std", "rope_theta"):
            value = getattr(self, name)
            _require(0 < value < float("inf"), f"model.{name}={value} must be a positive number")
        _require(
            self.head_dim is not None or self.embed_dim % self.num_heads == 0,
            f"model.embed_dim={self.embed_dim} does not divide over model.num_heads={self.num_heads}; "
            "use a multiple or set model.head_dim",
        )
        _require(
            self.num_heads % self.kv_heads == 0,
            f"model.num_heads={self.num_heads} is not a multiple of model.num_kv_heads={self.num_kv_heads}; "
            "each key-value head serves a whole group of heads",
        )
        _require(
            self.positions != "rotary" or self.dim_per_head % 2 == 0,
            f"model.head_dim={self.dim_per_head} is odd; rotary positions turn pairs, so use an even one",
        )
        _require(
            self.positions != "sinusoidal" or self.embed_dim % 2 == 0,
            f"model.embed_dim={self.embed_dim} is odd; sinusoidal positions need an even one",
        )

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def dim_per_head(self) -> int:
        return self.embed_dim // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def hidden_dim(self) -> int:
        """Width of the MLP between its two projections."""
        return 4 * self.embed_dim if self.mlp_dim is None else self.mlp_dim

    @property
    def attention_dropout_rate(self) -> float:
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the stored embedding: vocab_size rounded up to a multiple of VOCAB_MULTIPLE."""
        assert self.vocab_size is not None, "vocab_size is resolved before the model is made"
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
