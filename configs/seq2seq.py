"""A translation by an encoder-decoder: arithmetic from infix to reverse Polish notation, or your own texts.

Command:  flaxmill train seq2seq --run-dir RUN [--init-from T5_DIR --data.files F.jsonl]
Cost:     250 s of CPU time; no accelerator and no network.
Expected: 0.99 of the held-out expressions exactly right (flaxmill eval). Operands, then operators: 0.04.
"""

from flaxmill.train import BestConfig, DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="seq2seq",
    objective="seq2seq",
    steps=600,
    batch_size=64,
    eval_every=150,
    best=BestConfig(metric="eval_loss"),
    model=ModelConfig(encoder_layers=2, scan_layers=False),
    data=DataConfig(embedded="translation", vocab_size=300, sequence_length=48, target_length=48),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", beta2=0.999, weight_decay=0.01),
)
