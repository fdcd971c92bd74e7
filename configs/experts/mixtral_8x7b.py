"""Mixtral 8x7B (Jiang et al. 2024), on text that you give.

Command:  flaxmill train mixtral_8x7b --data.files 'text/*.txt' --data.tokenizer mixtral/tokenizer.json
Cost:     210e9 tokens, about 1.6e22 FLOPs (6 an active parameter and token); the state takes 560 GB.
Expected: 46,702,792,704 parameters, of which a token goes through 12,879,925,248.
"""

from dataclasses import replace

from flaxmill.configs import llama3_8b

config = replace(
    llama3_8b.config,
    name="mixtral_8x7b",
    model=replace(
        llama3_8b.config.model,
        vocab_size=32_000,
        rope_theta=1_000_000.0,
        num_experts=8,
        experts_per_token=2,
        load_balance_loss=0.02,  # router_aux_loss_coef of the published config.json
    ),
    data=replace(llama3_8b.config.data, vocab_size=32_000),
)
