"""A summary by a decoder: the first line of a docstring from the rest and the source, or your own texts.

Command:  flaxmill train summarize --init-from CODE --run-dir RUN
          CODE: flaxmill train gpt_tiny --data.embedded code --data.sequence-length 128
                --batch-size 16 --steps 5000 (code without docstrings)
Cost:     180 s of CPU time after the 1,100 s of CODE; no accelerator and no network.
Expected: held-out ROUGE-L 0.18 (flaxmill eval); copying the first sentence gets 0.12.
"""

from flaxmill.train import BestConfig, DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="summarize",
    objective="seq2seq",
    steps=900,
    batch_size=16,
    eval_every=150,
    best=BestConfig(metric="eval_loss"),
    model=ModelConfig(dropout=0.1, scan_layers=False),
    data=DataConfig(embedded="summaries", target_length=24),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="linear", beta2=0.999, weight_decay=0.01),
)
