"""`flaxmill configs`: lists the experiments."""

from dataclasses import dataclass

from flaxmill.train.named_configs import list_configs
from flaxmill.train.overrides import override


@dataclass(frozen=True, kw_only=True)
class ConfigsArguments:
    """Lists the experiments that `flaxmill train` knows by name."""


def run(arguments: list[str]) -> None:
    """Print the name and the purpose of each experiment."""
    override(ConfigsArguments(), arguments, program="flaxmill configs")
    configs = list_configs()
    width = max(map(len, configs))
    for name, summary in configs.items():
        print(f"{name:{width}}  {summary}")
