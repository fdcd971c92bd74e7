"""A small GPT with experts, on the documentation and source code inside this machine's own Python.

Command:  flaxmill train moe_tiny
Cost:     75 s on two CPU cores; no accelerator and no network.
Expected: held-out loss 4.48 nats (gpt_tiny 4.51); 1.59M parameters, 800k of them active; each expert gets
          11 to 14% of all choices.
"""

from dataclasses import replace

from flaxmill.configs import gpt_tiny

config = replace(
    gpt_tiny.config,
    name="moe_tiny",
    model=replace(
        gpt_tiny.config.model,
        mlp_dim=256,  # half of gpt_tiny's; a token goes through two of the experts and the shared one
        num_experts=8,
        experts_per_token=2,
        shared_experts=1,
        load_balance_loss=0.01,
        router_z_loss=0.001,
    ),
)
