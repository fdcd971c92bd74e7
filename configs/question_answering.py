"""Answers found in a text: questions on a function's source, or SQuAD's.

Command:  flaxmill train question_answering --init-from RUN_OF_bert_tiny --run-dir RUN
Cost:     160 s of CPU time after the 180 s of bert_tiny; no accelerator and no network.
Expected: held-out exact match 0.50, F1 0.58. Never answering: 0.15; the nearest sentence: F1 0.31.
"""

from flaxmill.train import BestConfig, DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="question_answering",
    objective="question_answering",
    steps=1000,
    batch_size=16,
    eval_every=250,
    best=BestConfig(metric="eval_loss"),
    model=ModelConfig(dropout=0.1, scan_layers=False),
    data=DataConfig(tokenizer="wordpiece"),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", beta2=0.999, weight_decay=0.01),
)
