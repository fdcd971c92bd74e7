"""A GPT that learns which of two answers fits a question about this machine's own Python, or your pairs.

Command:  flaxmill train dpo_tiny --run-dir RUN [--init-from HF_DIR --data.files pairs.jsonl]
Cost:     66 s of CPU time; no accelerator and no network.
Expected: held-out loss 0.087 nats, 0.693 at step 0; the right answer has the higher reward in 0.992 of pairs.
"""

from flaxmill.train import DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="dpo_tiny",
    objective="dpo",
    steps=100,
    batch_size=8,
    model=ModelConfig(scan_layers=False),
    data=DataConfig(sequence_length=256),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_fraction=0.1),
)
