"""A tag for each word: the role of every name in a line of Python, or the entities of your CoNLL file.

Command:  flaxmill train tag_tokens --run-dir RUN [--init-from DIR]
Cost:     65 s of CPU time; no accelerator and no network.
Expected: held-out accuracy 0.983. The commonest tag of each word: 0.804.
"""

from flaxmill.train import BestConfig, DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="tag_tokens",
    objective="token_classification",
    steps=600,
    batch_size=16,
    eval_every=150,
    best=BestConfig(metric="eval_accuracy"),
    model=ModelConfig(dropout=0.1, scan_layers=False),
    data=DataConfig(tokenizer="wordpiece", sequence_length=64),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", beta2=0.999, weight_decay=0.01),
)
