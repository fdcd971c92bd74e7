"""How text is decoded: greedily, by sampling, or by beam search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flaxmill.model.config import ModelConfig
from flaxmill.model.config_checks import require

WeightType = Literal["float32", "bfloat16", "int8"]
"""How the matrices of a model are kept for decoding. Norms and biases stay float32."""
MAX_SEED = 2**32 - 1  # a JAX key takes 32 bits


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """One way to decode. The default: the likeliest token at each place, up to the model's end token."""

    max_new_tokens: int = 32
    """Tokens after which a text ends, if no end token came before."""
    temperature: float = 0.0
    """0: the likeliest token; above 0: tokens are drawn, from logits divided by it."""
    top_k: int | None = None
    """Draw only from this many likeliest tokens."""
    top_p: float | None = None
    """Draw from the fewest tokens whose probabilities reach this sum (Holtzman et al. 2020)."""
    min_p: float | None = None
    """Draw from tokens at least this many times as likely as the likeliest (Nguyen et al. 2025)."""
    repetition_penalty: float = 1.0
    """Above 1: tokens already in the prompt or the text become less likely (Keskar et al. 2019)."""
    num_beams: int = 1
    """Above 1: beam search, which looks for the likeliest text and draws nothing."""
    length_penalty: float = 1.0
    """Beam search divides the log-probability of a text by its length to this power."""
    early_stopping: Literal["first", "likely", "never"] = "likely"
    """Beam search ends: first: once it has num_beams whole texts; likely: once no unfinished text is better
    at its present length; never: once none can become better."""
    num_samples: int = 1
    """Texts for each prompt; beam search returns its best ones."""
    seed: int = 0
    """Draws the tokens: the same seed gives a prompt the same texts, whatever else is in the batch."""
    end_ids: tuple[int, ...] | None = None
    """Tokens that end a text, and are its last; None: the model's own; (): none."""
    suppressed_ids: tuple[int, ...] = ()
    """Tokens that are never chosen."""
    forced_end: bool = False
    """A text without an end token at max_new_tokens gets one there, in place of its last token (Marian)."""

    def __post_init__(self) -> None:
        _check_ranges(self)
        _check_combinations(self)


def _check_ranges(config: GenerationConfig) -> None:
    for name in ("max_new_tokens", "num_beams", "num_samples"):
        value = getattr(config, name)
        require(value >= 1, f"{name}={value} must be at least 1")
    require(
        0 <= config.temperature < float("inf"),
        f"temperature={config.temperature} must be 0 (the likeliest token) or above",
    )
    require(config.top_k is None or config.top_k >= 1, f"top_k={config.top_k} must be at least 1, or None")
    for name in ("top_p", "min_p"):
        value = getattr(config, name)
        require(value is None or 0 < value <= 1, f"{name}={value} must be above 0 and at most 1, or None")
    require(
        0 < config.repetition_penalty < float("inf"),
        f"repetition_penalty={config.repetition_penalty} must be a positive number; 1 does nothing",
    )
    require(
        abs(config.length_penalty) < float("inf"),
        f"length_penalty={config.length_penalty} must be a finite number",
    )
    require(0 <= config.seed <= MAX_SEED, f"seed={config.seed} must be in [0, {MAX_SEED}]")


def _check_combinations(config: GenerationConfig) -> None:
    samples, has_beams = config.temperature > 0, config.num_beams > 1
    require(
        not (samples and has_beams),
        f"num_beams={config.num_beams} draws nothing, but temperature={config.temperature}; "
        "set temperature 0, or num_beams 1",
    )
    for name in ("top_k", "top_p", "min_p"):
        value = getattr(config, name)
        require(
            samples or value is None,
            f"{name}={value} limits the tokens to draw from, and temperature 0 draws none; set a temperature",
        )
    require(
        samples or config.num_samples == 1 or config.num_samples <= config.num_beams,
        f"num_samples={config.num_samples} texts would be alike at temperature 0; set a temperature, or "
        f"num_beams to {config.num_samples} or more",
    )
    require(
        config.num_beams > 1 or (config.length_penalty == 1.0 and config.early_stopping == "likely"),
        "length_penalty and early_stopping belong to beam search; set num_beams above 1",
    )


def check_generates(config: ModelConfig) -> None:
    """Raises ValueError where the model predicts no next token."""
    require(
        config.head == "lm",
        f"model.head={config.head} predicts no next token: such a model fills gaps or classifies; "
        "generate with a causal model or an encoder-decoder",
    )


def check_prompts(config: ModelConfig, prompts: Sequence[Sequence[int]]) -> None:
    """Raises ValueError where a prompt is empty, has ids that the model lacks, or leaves no room."""
    assert config.vocab_size is not None
    require(bool(prompts), "there is no prompt; give one or more")
    limit = room(config, 0)
    for number, prompt in enumerate(prompts):
        require(len(prompt) > 0, f"prompt {number} is empty; give it at least one token")
        require(
            min(prompt) >= 0 and max(prompt) < config.vocab_size,
            f"prompt {number} has a token outside the model's vocabulary of {config.vocab_size}; "
            "use the tokenizer that it was trained with",
        )
        fits = limit is None or len(prompt) < limit + (config.encoder_layers is not None)
        require(
            fits,
            f"prompt {number} of {len(prompt)} tokens leaves no room in model.max_positions={limit}; "
            "shorten it",
        )


def room(config: ModelConfig, prompt_length: int) -> int | None:
    """How many tokens the model's learned positions leave after a prompt; None: any number."""
    if config.positions != "learned" or config.max_positions is None:
        return None
    return config.max_positions - prompt_length
