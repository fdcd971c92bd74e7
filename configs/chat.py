"""A GPT that answers questions about this machine's own Python, or a model of yours on your conversations.

Command:  flaxmill train chat --run-dir RUN [--init-from HF_DIR --data.files chats.jsonl]
Cost:     250 s of CPU time; no accelerator and no network.
Expected: held-out loss 3.14 nats on what the assistant says, 7.66 at step 0; counted pairs of tokens 3.79.
"""

from flaxmill.train import DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="chat",
    objective="conversation",
    steps=1000,
    batch_size=8,
    prompt="What does Mailbox.pop do? It is in mailbox.",
    model=ModelConfig(scan_layers=False),
    data=DataConfig(packing="best_fit", sequence_length=256),
    optimizer=OptimizerConfig(learning_rate=3e-3, schedule="cosine", warmup_fraction=0.1),
)
