"""Two published runs beside the ceilings of the same runs: how far real runs stay below."""

from functools import cache
from typing import Any, NamedTuple

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.analytic import Estimate, estimate

MAXTEXT = "https://github.com/AI-Hypercomputer/maxtext/blob/main/docs/reference/architecture"
TORCHTITAN = "https://github.com/pytorch/torchtitan/blob/main/benchmarks"


class PublishedRun(NamedTuple):
    """A measured run, and what it could be at most."""

    what: str
    source: str
    tokens_per_second: float
    """Measured, of all devices."""
    ceiling: float
    """By roofline.py, of all devices."""

    @property
    def share(self) -> float:
        """Of its ceiling, measured."""
        return self.tokens_per_second / self.ceiling


def _llama(**sizes: Any) -> ModelConfig:
    return ModelConfig(
        causal=True,
        head="lm",
        norm="rmsnorm",
        positions="rotary",
        activation="silu",
        gated_mlp=True,
        use_bias=False,
        tie_embeddings=False,
        dtype="bfloat16",
        num_kv_heads=8,
        **sizes,
    )


LLAMA2_70B = _llama(
    vocab_size=32_000, num_layers=80, embed_dim=8192, num_heads=64, mlp_dim=28_672, remat="full"
)
LLAMA3_8B = _llama(
    vocab_size=128_256, num_layers=32, embed_dim=4096, num_heads=32, mlp_dim=14_336, remat="dots"
)


@cache
def published_runs() -> tuple[PublishedRun, PublishedRun]:
    """A run that is close to its ceiling, and one that is not."""
    large = _run(LLAMA2_70B, "v5p", devices=64, rows=4, num_tokens=4096)
    small = _run(LLAMA3_8B, "h100", devices=8, rows=2, num_tokens=8192)
    assert large.roofline is not None
    assert small.roofline is not None
    reached = 0.65 * large.roofline.peak_flops / large.flops.full * large.num_tokens
    return (
        PublishedRun(
            "Llama-2-70B on 64 v5p, 65% MFU (MaxText)",
            f"{MAXTEXT}/architecture_overview.md",
            reached,
            large.roofline.tokens_per_second,
        ),
        PublishedRun(
            "Llama-3.1-8B on 8 H100, 6,667 tokens a second and GPU (torchtitan)",
            f"{TORCHTITAN}/llama3_h100_202412_torchtitan.md",
            8 * 6667,
            small.roofline.tokens_per_second,
        ),
    )


def _run(model: ModelConfig, chip: str, devices: int, rows: int, num_tokens: int) -> Estimate:
    """The estimate of a run with all its devices in one fsdp group; what is not published is guessed."""
    experiment = Experiment(
        model=model, batch_size=rows * devices, data=DataConfig(sequence_length=num_tokens, vocab_size=32_000)
    )
    return estimate(experiment, {"data": 1, "fsdp": devices, "tensor": 1}, CHIPS[chip])
