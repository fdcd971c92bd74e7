"""Qwen3-30B-A3B (Yang et al. 2025), on text that you give.

Command:  flaxmill train qwen3_30b_a3b --data.files 'text/*.txt' --data.tokenizer qwen3/tokenizer.json
Cost:     210e9 tokens, about 4e21 FLOPs (6 an active parameter and token); the state takes 366 GB.
Expected: 30,532,122,624 parameters, of which a token goes through 3,353,032,704.
"""

from dataclasses import replace

from flaxmill.configs import llama3_8b

config = replace(
    llama3_8b.config,
    name="qwen3_30b_a3b",
    model=replace(
        llama3_8b.config.model,
        vocab_size=151_936,
        num_layers=48,
        embed_dim=2048,
        num_kv_heads=4,
        head_dim=128,
        mlp_dim=6144,  # of no layer: all have experts
        norm_epsilon=1e-6,
        rope_theta=1_000_000.0,
        qk_norm=True,
        num_experts=128,
        experts_per_token=8,
        expert_dim=768,
        load_balance_loss=0.001,
    ),
    data=replace(llama3_8b.config.data, vocab_size=151_936),
)
