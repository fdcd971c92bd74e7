"""What a whole run costs: tokens, days and device-hours to its last step."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from flaxmill.train.plan.published import published_runs

DAY, HOUR = 24 * 3600, 3600


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
