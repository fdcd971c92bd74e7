"""A decision on two texts: whether a statement holds of a function's source, or the labels of your pairs.

Command:  flaxmill train classify_pairs --run-dir RUN [--init-from DIR]
Cost:     100 s of CPU time; no accelerator and no network.
Expected: held-out accuracy 0.71; from a bert_tiny run 0.82. Majority 0.50, bag of words 0.71.
"""

from flaxmill.train import BestConfig, DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="classify_pairs",
    objective="classification",
    steps=600,
    batch_size=16,
    eval_every=150,
    best=BestConfig(metric="eval_accuracy"),
    model=ModelConfig(dropout=0.1, scan_layers=False),
    data=DataConfig(pair_column="pair", tokenizer="wordpiece"),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", beta2=0.999, weight_decay=0.01),
)
