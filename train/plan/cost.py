"""What a whole run costs to its last step, and two published runs that say how far real ones stay below."""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.hardware.chips import CHIPS
from flaxmill.train.experiment import Experiment
from flaxmill.train.plan.analytic import Estimate, estimate

DAY, HOUR = 24 * 3600, 3600  # seconds
MAXTEXT = "https://github.com/AI-Hypercomputer/maxtext/blob/main/docs/reference/architecture"
TORCHTITAN = "https://github.com/pytorch/torchtitan/blob/main/benchmarks"


class Cost(NamedTuple):
    """A run from its first step to its last."""

    steps: int
    num_tokens: int
    """Tokens of a step."""
    num_devices: int

    @property
    def total_tokens(self) -> int:
        return self.steps * self.num_tokens

    def rows(self, ceiling: float) -> Iterator[tuple[str, float, float, float]]:
        """(how fast, tokens a second, days, device-hours) at the ceiling and at the published shares."""
        shares = [("at the ceiling", 1.0)]
        shares += [(f"at {run.share:.2f} of the ceiling", run.share) for run in published_runs()]
        for what, share in shares:
            seconds = self.total_tokens / (share * ceiling)
            yield what, share * ceiling, seconds / DAY, self.num_devices * seconds / HOUR

    def json(self, ceiling: float | None) -> dict[str, Any]:
        plain = {"steps": self.steps, "tokens_a_step": self.num_tokens, "tokens": self.total_tokens}
        if ceiling is None:
            return plain
        names = ("speed", "tokens_per_second", "days", "device_hours")
        return plain | {"speeds": [dict(zip(names, row, strict=True)) for row in self.rows(ceiling)]}


def in_time(seconds: float) -> str:
    """Seconds with the unit in which they are neither many nor a fraction: 12 ms, 4.5 s, 3.2 h, 12.0 days."""
    for unit, name in ((DAY, "days"), (HOUR, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


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
