"""BERT-large with LAMB and batches of 65,536 rows (You et al. 2019, phase 1), on text that you give.

Command:  flaxmill train bert_large --data.files 'text/*.txt' --data.documents blank_lines
Cost:     59e9 tokens, about 1.2e20 FLOPs (6 a parameter and token).
Expected: 336,226,108 parameters.
"""

from dataclasses import replace

from flaxmill.configs import bert_base
from flaxmill.train import OptimizerConfig

config = replace(
    bert_base.config,
    name="bert_large",
    steps=7038,
    batch_size=65_536,
    accumulate=16,
    eval_every=500,
    eval_batches=1,
    model=replace(bert_base.config.model, num_layers=24, embed_dim=1024, num_heads=16, remat="full"),
    optimizer=OptimizerConfig(
        name="lamb",
        learning_rate=6e-3,
        schedule="linear",
        warmup_fraction=0.2843,
        beta2=0.999,
        epsilon=1e-6,
        weight_decay=0.01,
    ),
)
