"""The fields of a ModelConfig, and what follows from them."""

from dataclasses import dataclass
from typing import Literal

VOCAB_MULTIPLE = 128  # embeddings are padded to a multiple of this, so that any tensor axis divides them

Head = Literal["lm", "mlm", "mlm_nsp", "classification", "token_classification", "qa", "none"]
Family = Literal[
    "bert",
    "roberta",
    "modernbert",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "mixtral",
    "qwen3_moe",
    "t5",
    "marian",
]
LayerKind = Literal["global", "local"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
TextPooling = Literal["mean", "cls", "max", "last", "mean_sqrt_len", "weighted_mean"]
LoraTarget = Literal["query", "key", "value", "out", "up", "gate", "down"]

DENSE_TENSORS = ("query", "key", "value", "attention_output", "mlp_up", "mlp_gate", "mlp_output")
"""The results of a layer's matrix products, which remat=dots keeps."""
LAYER_TENSORS = ("layer_input", "attention_mixed", "mlp_hidden", *DENSE_TENSORS)
"""The tensors of a layer that remat_tensors may name."""


@dataclass(frozen=True, kw_only=True)
class ModelFields:
    """The fields of a Transformer of any family; `config.ModelConfig` refuses values that make no sense."""

    family: Family | None = None
    """The family that an export takes its names and config.json from; None: the first family that fits."""
    vocab_size: int | None = None
    """True number of token ids; None: as many as the tokenizer has."""
    max_positions: int | None = None
    """Longest row that learned positions can address; None: the data's sequence length."""
    position_offset: int = 0
    """Rows of the position table before position 0 (RoBERTa: 2)."""
    num_layers: int = 2
    """Layers of the decoder or encoder; of an encoder-decoder, the decoder's."""
    embed_dim: int = 128
    """Width of the residual stream, and of token embeddings."""
    num_heads: int = 4
    """Query heads of attention."""
    num_kv_heads: int | None = None
    """Key-value heads of grouped-query attention (Ainslie et al. 2023); None: num_heads."""
    head_dim: int | None = None
    """None: embed_dim / num_heads."""
    mlp_dim: int | None = None
    """None: 4 x embed_dim."""
    encoder_layers: int | None = None
    """Layers of the encoder that the (decoder's) layers attend to; None: there is no encoder."""
    encoder_num_heads: int | None = None
    """None: num_heads."""
    encoder_mlp_dim: int | None = None
    """None: the decoder's."""
    causal: bool | None = None
    """True: a token attends to itself and what precedes it; None: as the objective needs."""
    bidirectional_prefix: bool | None = None
    """A causal model whose first tokens see each other: the `prefix` of a batch, and prompts in generation;
    None: as the objective needs."""
    head: Head | None = None
    """lm: next token; mlm: BERT's transform + decoder; mlm_nsp: also pooler and next-sentence head;
    classification: of whole rows; token_classification: of tokens; qa: start and end of an answer;
    none: hidden states."""
    num_labels: int | None = None
    """Classes of a classification or token_classification head; None: as many as the data's labels, or 2."""
    problem_type: ProblemType | None = None
    """single_label_classification: the largest score wins; multi_label_classification: each score is true or
    not; regression: outputs are numbers; None: regression if there is one output, else single label."""
    pooling: Literal["first", "last", "mean"] | None = None
    """What classification reads: the first token, the last real one, or the mean of the real ones; None:
    the last where attention is causal, else the first."""
    pooler: Literal["none", "tanh", "transform"] | None = None
    """Before the classifier: nothing, BERT's tanh projection, or projection, activation and norm
    (ModernBERT); None: tanh for mlm_nsp and for classification of the first token."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """layernorm: mean and variance; rmsnorm: the root mean square alone."""
    norm_position: Literal["pre", "post"] = "pre"
    """pre: before attention and MLP (GPT-2); post: after their residual sums (BERT)."""
    norm_epsilon: float = 1e-5
    """Added to the variance, or to the mean square."""
    embedding_norm: bool = False
    """Normalise the sum of the embeddings, as BERT does."""
    first_attention_norm: bool = True
    """False: the first layer's attention reads its input as it is (ModernBERT)."""
    parallel_residual: bool = False
    """Attention and MLP both read the layer's input (GPT-NeoX)."""
    positions: Literal["learned", "sinusoidal", "rotary", "relative"] = "learned"
    """relative: a learned bias for each head and bucket of distances (T5)."""
    scale_embeddings: bool | None = None
    """Multiply token embeddings by sqrt(embed_dim); None: only if positions are sinusoidal."""
    rope_theta: float = 10_000.0
    """The base of rotary angles (Su et al. 2021)."""
    local_rope_theta: float | None = None
    """Theta of local layers; None: rope_theta."""
    rotary_fraction: float = 1.0
    """Share of each head's dimensions that rotary positions turn, from the first on."""
    rope_scaling: Literal["none", "linear", "dynamic", "yarn", "longrope", "llama3"] = "none"
    """Stretch rotary positions: linear: all by rope_factor (Chen et al. 2023); dynamic: by a theta that grows
    with the length; yarn (Peng et al. 2023), llama3: only slow turns; longrope (Ding et al. 2024): each
    turn by a factor of its own."""
    rope_scaled_layers: Literal["all", "global"] = "all"
    """Which layers rope_scaling stretches."""
    rope_factor: float = 1.0
    """By how much rope_scaling stretches positions."""
    rope_low_frequency_factor: float = 1.0
    """llama3: turns slower than this many in rope_original_positions are stretched in full."""
    rope_high_frequency_factor: float = 4.0
    """llama3: turns faster than this many in rope_original_positions are left alone."""
    rope_original_positions: int = 8192
    """llama3, yarn, longrope: the context length before the stretching; dynamic: the longest row that is not
    stretched."""
    rope_attention_factor: float | None = None
    """yarn, longrope: multiplies queries and keys; None: computed from the other values, as in the papers."""
    rope_beta_fast: float = 32.0
    """yarn: turns faster than this many in rope_original_positions are left alone."""
    rope_beta_slow: float = 1.0
    """yarn: turns slower than this many in rope_original_positions are stretched in full."""
    rope_truncate: bool = True
    """yarn: round the two limits to whole pairs of dimensions."""
    rope_short_factors: tuple[float, ...] = ()
    """longrope: what each turn is divided by in rows of up to rope_original_positions tokens."""
    rope_long_factors: tuple[float, ...] = ()
    """longrope: the same in longer rows."""
    relative_buckets: int = 32
    """relative positions: buckets of distances, each with a bias for every head (T5)."""
    relative_max_distance: int = 128
    """Distances from here on share the last bucket."""
    layer_pattern: tuple[LayerKind, ...] = ()
    """Kinds of attention, repeated over the layers: global, or local within `window`; (): all global."""
    window: int | None = None
    """What a token sees in a local layer: itself and window - 1 before; not causal: window // 2 each side."""
    attention_scale: float | None = None
    """Factor of the attention logits; None: 1 / sqrt(head_dim)."""
    qk_norm: bool = False
    """RMS-normalise each head's queries and keys (Qwen3)."""
    num_segments: int = 0
    """Segment (token type) embeddings; 0: none."""
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu_tanh"
    """gelu is the exact erf form, gelu_tanh its approximation."""
    gated_mlp: bool = False
    """Multiply the activation by a second projection (Shazeer 2020)."""
    num_experts: int | None = None
    """Experts in place of a layer's MLP; a router sends each token to a few of them (Shazeer et al. 2017).
    They have no biases. None: every layer has an MLP."""
    experts_per_token: int = 2
    """How many routed experts a token goes to."""
    expert_dim: int | None = None
    """Width of an expert between its projections; None: mlp_dim."""
    normalize_top_k: bool = True
    """Divide the weights of a token's experts by their sum (Mixtral); else they are its probabilities as they
    are."""
    expert_capacity: float | None = None
    """The most tokens of a row that an expert takes, as a multiple of its share if all took as many; tokens
    beyond pass it by (Lepikhin et al. 2021). None: experts take all that come."""
    shared_experts: int = 0
    """Experts beside these that every token goes to (Dai et al. 2024), as one MLP of their joint width."""
    moe_every: int = 1
    """Only every n-th layer has experts, the last of each n; the others have an MLP."""
    load_balance_loss: float = 0.0
    """Weight of the loss that spreads tokens evenly over experts (Fedus et al. 2022, eq. 4)."""
    router_z_loss: float = 0.0
    """Weight of the loss that keeps the router's logits small (Zoph et al. 2022, eq. 5)."""
    use_bias: bool = True
    """Biases wherever the next four do not say otherwise."""
    qkv_bias: bool | None = None
    """Of query, key and value; None: use_bias."""
    attention_out_bias: bool | None = None
    """Of attention's output; None: use_bias."""
    mlp_bias: bool | None = None
    """Of the MLP; None: use_bias."""
    norm_bias: bool | None = None
    """Of norms; None: use_bias."""
    tie_embeddings: bool = True
    """The head reuses the token embeddings."""
    scale_head: bool = False
    """Multiply what the lm head reads by 1 / sqrt(embed_dim) (T5, where the head is tied)."""
    head_bias: bool = False
    """A bias on the lm head's logits (Marian)."""
    pad_id: int | None = None
    """Token ids that an export names in its config.json; None: the tokenizer's."""
    bos_id: int | None = None
    """The token that begins a text, in an export's config.json."""
    eos_id: int | None = None
    """The token that ends a text, in an export's config.json."""
    eos_ids: tuple[int, ...] = ()
    """All ids that end a text, if there are several; eos_id is the first of them; (): eos_id alone."""
    decoder_start_id: int | None = None
    """The first token that an encoder-decoder's decoder reads; None: the pad token, else the end."""
    initializer: Literal["bert", "gpt2", "normal", "xavier"] = "gpt2"
    """bert: truncated normal; gpt2: normal, residual projections / sqrt(2 L); xavier: uniform."""
    initializer_std: float = 0.02
    """Standard deviation of initial weights."""
    dropout: float = 0.0
    """Share of embeddings and of sub-layers' outputs that training sets to zero."""
    attention_dropout: float | None = None
    """Dropout of attention probabilities; None: the same as dropout."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Compute dtype. Weights, norms, softmax and loss stay float32; float64 is only for numerical checks;
    it needs float64 parameters and JAX's x64 mode."""
    lora_rank: int | None = None
    """Rank of the low-rank factors beside frozen projections (LoRA, Hu et al. 2021); None: no LoRA."""
    lora_alpha: float = 16.0
    """The product of the factors is multiplied by lora_alpha / lora_rank."""
    lora_targets: tuple[LoraTarget, ...] = ()
    """Projections of attention (also to an encoder) and MLP that have factors, in every layer; (): query and
    value, as in the paper."""
    attention: Literal["auto", "xla", "blocks", "cudnn", "splash"] = "auto"
    """auto: splash on TPU, cuDNN on GPU, blocks on CPU for causal rows of 512 tokens and others of 2,048; XLA
    elsewhere and where these cannot be used. The memory of blocks grows with the tokens, XLA's with their
    pairs."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass keeps of a layer: all, its matrix products, or only its input."""
    remat_tensors: tuple[str, ...] = ()
    """Changes that for single tensors, each as NAME=save, NAME=recompute or NAME=offload, which keeps it in
    the host's memory; needs remat=dots or full. Names: layer_input query key value attention_mixed
    attention_output mlp_up mlp_gate mlp_hidden mlp_output."""
    scan_layers: bool = True
    """Compile one layer and loop over it; False unrolls: longer to compile, faster for few layers."""

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
    def expert_hidden_dim(self) -> int:
        """Width of an expert between its two projections."""
        return self.hidden_dim if self.expert_dim is None else self.expert_dim

    @property
    def attention_dropout_rate(self) -> float:
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that rotary positions turn."""
        return int(self.dim_per_head * self.rotary_fraction)

    @property
    def logits_factor(self) -> float:
        """What attention logits are multiplied by."""
        return self.dim_per_head**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def scales_embeddings(self) -> bool:
        sinusoidal = self.positions == "sinusoidal"
        return sinusoidal if self.scale_embeddings is None else self.scale_embeddings

    @property
    def lora_projections(self) -> tuple[LoraTarget, ...]:
        return self.lora_targets or ("query", "value")

    @property
    def pooled_place(self) -> Literal["first", "last", "mean"]:
        if self.pooling is not None:
            return self.pooling
        return "last" if self.causal else "first"

    @property
    def pooler_kind(self) -> Literal["none", "tanh", "transform"]:
        if self.pooler is not None:
            return self.pooler
        pools = self.head == "mlm_nsp" or (self.head == "classification" and self.pooled_place == "first")
        return "tanh" if pools else "none"

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end a text."""
        return self.eos_ids or (() if self.eos_id is None else (self.eos_id,))

    @property
    def num_classes(self) -> int | None:
        """Outputs of the task head; None: there is no such head."""
        if self.head == "qa":
            return 2  # start and end
        if self.head in ("classification", "token_classification"):
            return 2 if self.num_labels is None else self.num_labels
        return None

    @property
    def problem(self) -> ProblemType | None:
        """What a classification head solves: `problem_type`, or what follows; None: there is no such head."""
        if self.head != "classification":
            return None
        if self.problem_type is not None:
            return self.problem_type
        return "regression" if self.num_classes == 1 else "single_label_classification"

    @property
    def turns_by_length(self) -> bool:
        """Whether rotary positions turn differently in longer rows."""
        return self.positions == "rotary" and self.rope_scaling in ("dynamic", "longrope")

    def has_bias(self, part: Literal["qkv", "attention_out", "mlp", "norm"]) -> bool:
        own = getattr(self, f"{part}_bias")
        return self.use_bias if own is None else own

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the stored embedding: vocab_size rounded up to a multiple of VOCAB_MULTIPLE."""
        assert self.vocab_size is not None, "vocab_size is resolved before the model is made"
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
