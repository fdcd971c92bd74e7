"""LLaMA-3-70B (Grattafiori et al. 2024), on text that you give.

Command:  flaxmill train llama3_70b --data.files 'text/*.txt' --data.tokenizer llama3/tokenizer.json
Cost:     210e9 tokens, about 9e22 FLOPs (6 a parameter and token); the state takes 12 bytes a parameter.
Expected: 70,553,706,496 parameters.
"""

from dataclasses import replace

from flaxmill.configs import llama3_8b
from flaxmill.train import OptimizerConfig

config = replace(
    llama3_8b.config,
    name="llama3_70b",
    steps=25_000,
    batch_size=1024,  # rows of 8,192 tokens, 8 million in all: one for each of 1,024 chips
    model=replace(llama3_8b.config.model, num_layers=80, embed_dim=8192, num_heads=64, mlp_dim=28_672),
    optimizer=OptimizerConfig(learning_rate=1.5e-4, warmup_fraction=0.04, final_fraction=0.1),
)
