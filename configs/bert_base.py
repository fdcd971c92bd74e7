"""BERT-base (Devlin et al. 2018), on text that you give.

Command:  flaxmill train bert_base --data.files 'text/*.txt' --data.documents blank_lines
Cost:     33e9 tokens, about 2e19 FLOPs (6 a parameter and token); rows of 128, as the paper's first 90%.
Expected: 110,106,428 parameters; MLM + NSP loss 11.16 at step 0.
"""

from flaxmill.train import DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="bert_base",
    objective="mlm_nsp",
    steps=1_000_000,
    batch_size=256,
    eval_every=10_000,
    eval_batches=40,
    model=ModelConfig(
        vocab_size=30_522,
        max_positions=512,
        num_layers=12,
        embed_dim=768,
        num_heads=12,
        norm_position="post",
        norm_epsilon=1e-12,
        embedding_norm=True,
        num_segments=2,
        activation="gelu",
        initializer="bert",
        dropout=0.1,
        dtype="bfloat16",
    ),
    data=DataConfig(tokenizer="wordpiece", vocab_size=30_522, sequence_length=128, pair_copies=10),
    optimizer=OptimizerConfig(
        learning_rate=1e-4,
        schedule="bert",
        warmup_fraction=0.01,
        beta2=0.999,
        epsilon=1e-6,
        weight_decay=0.01,
        bias_correction=False,
    ),
)
