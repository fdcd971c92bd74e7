"""GPT-2 small (Radford et al. 2019), on text that you give.

Command:  flaxmill train gpt2_124m --data.files 'text/*.txt' --data.tokenizer gpt2/tokenizer.json
Cost:     10.5e9 tokens, about 8e18 FLOPs (6 a parameter and token).
Expected: 124,439,808 parameters; loss 10.98 at step 0 (ln V + d sigma^2 / 2).
"""

from flaxmill.train import DataConfig, Experiment, ModelConfig, OptimizerConfig

config = Experiment(
    name="gpt2_124m",
    objective="causal",
    steps=20_000,
    batch_size=512,  # half a million tokens: with far fewer the loss stays near 7.8
    eval_every=1000,
    eval_batches=20,
    prompt="In the beginning",
    model=ModelConfig(
        vocab_size=50_257,
        max_positions=1024,
        num_layers=12,
        embed_dim=768,
        num_heads=12,
        dtype="bfloat16",
        remat="dots",
    ),
    data=DataConfig(vocab_size=50_257, sequence_length=1024),
    optimizer=OptimizerConfig(learning_rate=6e-4, warmup_fraction=0.035, final_fraction=0.1),
)
