"""A summary by a decoder: the first line of a docstring from the rest and the source, or your own texts.

Command:  flaxmill train summarize --init-from RUN --run-dir SUMMARIES
          RUN: flaxmill train gpt_tiny --data.embedded code --data.sequence-length 128 (no docstrings)
Cost:     120 s of CPU time; no accelerator and no network.
Expected: held-out ROUGE-L 0.126 (flaxmill eval); copying the first sentence has 0.120.
"""

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.train.best import BestConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer import OptimizerConfig

config = Experiment(
    name="summarize",
    objective="seq2seq",
    steps=480,
    batch_size=16,
    eval_every=120,
    best=BestConfig(metric="eval_loss"),
    model=ModelConfig(dropout=0.1, scan_layers=False),
    data=DataConfig(embedded="summaries", target_length=24),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", beta2=0.999, weight_decay=0.01),
)
