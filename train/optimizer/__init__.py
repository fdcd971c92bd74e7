"""From gradients to updates.

config       what a user sets
optimizers   the optimizers: read this first
schedule     the learning rate of a step
adam         Adam's direction
low_moments  moments in bfloat16
offload      moments in the memory of the host
per_layer    optimizers that look at whole tensors, applied layer by layer
layer_decay  smaller rates for layers near the input
freezing     which parameters are trained
"""

# Users' configs import it from here.
from flaxmill.train.optimizer.config import OptimizerConfig

__all__ = ["OptimizerConfig"]
