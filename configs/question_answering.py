"""DOC"""

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.train.best import BestConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer import OptimizerConfig

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
