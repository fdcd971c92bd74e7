"""A classifier of texts: what a Python expression is at its top, or whatever your CSV labels.

Command:  flaxmill train classify
          flaxmill train classify --init-from DIR --data.files train.csv --data.valid-files valid.csv \
              --data.text-column input --data.label-column label --run-dir RUN
"""

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.train.best import BestConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer import OptimizerConfig

config = Experiment(
    name="classify",
    objective="classification",
    steps=600,
    batch_size=16,
    eval_every=100,
    best=BestConfig(metric="eval_accuracy"),
    model=ModelConfig(dropout=0.1, scan_layers=False),
    data=DataConfig(tokenizer="wordpiece"),
    optimizer=OptimizerConfig(learning_rate=5e-4, schedule="linear", beta2=0.999, weight_decay=0.01),
)
