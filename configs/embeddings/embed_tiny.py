"""Vectors of texts by a small BERT: a docstring's first line is to be nearest to its own definition.

Command:  flaxmill train embed_tiny --run-dir RUN
Cost:     135 s of CPU time; no accelerator and no network.
Expected: held-out accuracy 0.60 among 32 texts; among all 471 the right one is nearest in 0.43, chance 0.002.
"""

from flaxmill.train import BestConfig, DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="embed_tiny",
    objective="contrastive",
    steps=300,
    batch_size=32,
    eval_every=100,
    best=BestConfig(metric="eval_accuracy"),
    model=ModelConfig(
        norm_position="post",
        norm_epsilon=1e-12,
        embedding_norm=True,
        num_segments=2,
        activation="gelu",
        initializer="bert",
        scan_layers=False,
    ),
    data=DataConfig(pair_column="pair", tokenizer="wordpiece", sequence_length=160),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", beta2=0.999, weight_decay=0.01),
)
