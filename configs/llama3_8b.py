"""LLaMA-3-8B (Grattafiori et al. 2024), on text that you give.

Command:  flaxmill train llama3_8b --data.files 'text/*.txt' --data.tokenizer llama3/tokenizer.json
Cost:     210e9 tokens, about 1e22 FLOPs (6 a parameter and token); the state takes 12 bytes a parameter.
Expected: 8,030,261,248 parameters.
"""

from flaxmill.train import DataConfig, Experiment, MeshConfig, ModelConfig, OptimizerConfig

config = Experiment(
    name="llama3_8b",
    objective="causal",
    steps=50_000,
    batch_size=512,  # rows of 8,192 tokens: 4 million in all
    eval_every=1000,
    eval_batches=10,
    model=ModelConfig(
        vocab_size=128_256,
        num_layers=32,
        embed_dim=4096,
        num_heads=32,
        num_kv_heads=8,
        mlp_dim=14_336,
        norm="rmsnorm",
        positions="rotary",
        rope_theta=500_000.0,
        activation="silu",
        gated_mlp=True,
        use_bias=False,
        tie_embeddings=False,
        initializer="normal",
        dtype="bfloat16",
        remat="full",
    ),
    data=DataConfig(vocab_size=128_256, sequence_length=8192),
    mesh=MeshConfig(data=1, fsdp=None),
    optimizer=OptimizerConfig(learning_rate=3e-4, warmup_fraction=0.04, final_fraction=0.1),
)
