"""DOC"""

from flaxmill.data.config import DataConfig
from flaxmill.model.config import ModelConfig
from flaxmill.train.best import BestConfig
from flaxmill.train.experiment import Experiment
from flaxmill.train.optimizer import OptimizerConfig

config = Experiment(
    name="summarize",
    objective="seq2seq",
    steps=800,
    batch_size=16,
    eval_every=200,
    best=BestConfig(metric="eval_loss"),
    model=ModelConfig(encoder_layers=2, dropout=0.1, scan_layers=False),
    data=DataConfig(embedded="summaries", sequence_length=128, target_length=24),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", beta2=0.999, weight_decay=0.01),
)
