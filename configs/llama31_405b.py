"""LLaMA-3.1-405B (Grattafiori et al. 2024), on text that you give.

Command:  flaxmill train llama31_405b --data.files 'text/*.txt' --data.tokenizer llama3/tokenizer.json
Cost:     1.7e12 tokens, about 4e24 FLOPs (6 a parameter and token); the state takes 12 bytes a parameter.
Expected: 405,853,388,800 parameters.
"""

from dataclasses import replace

from flaxmill.configs import llama3_8b
from flaxmill.train import OptimizerConfig

config = replace(
    llama3_8b.config,
    name="llama31_405b",
    steps=100_000,
    batch_size=2048,  # rows of 8,192 tokens: 16 million in all
    model=replace(llama3_8b.config.model, num_layers=126, embed_dim=16_384, num_heads=128, mlp_dim=53_248),
    optimizer=OptimizerConfig(learning_rate=8e-5, warmup_fraction=0.08, final_fraction=0.01),
)
