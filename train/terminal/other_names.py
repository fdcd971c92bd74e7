"""What fields of an experiment are called elsewhere: a flag of another trainer is refused with ours.

The names are those of transformers' TrainingArguments and its example scripts, MaxText, nanoGPT and Levanter.
"""

_NAMES: dict[str, tuple[str, ...]] = {
    "--steps": ("max-steps", "max-iters", "num-train-steps", "train-steps", "total-steps", "iterations"),
    "--epochs": ("num-epochs", "num-train-epochs", "max-epochs", "n-epochs", "train-epochs"),
    "--batch-size": ("train-batch-size", "per-device-batch-size", "per-device-train-batch-size", "bs"),
    "--accumulate": ("gradient-accumulation-steps", "grad-accum", "accumulation-steps"),
    "--run-dir": (
        "output-dir",
        "out-dir",
        "base-output-directory",
        "checkpoint-dir",
        "log-dir",
        "logging-dir",
    ),
    "--init-from": ("model-name-or-path", "pretrained-model", "load-parameters-path", "initialize-from-hf"),
    "--log-every": ("logging-steps", "log-interval", "log-period"),
    "--eval-every": ("eval-steps", "eval-interval", "steps-per-eval", "evaluation-strategy"),
    "--eval-batches": ("eval-iters", "max-eval-batches", "per-device-eval-batch-size"),
    "--trackers": ("report-to", "wandb", "wandb-log", "wandb-project", "tracker"),
    "--label-smoothing": ("label-smoothing-factor",),
    "--data.files": ("train-file", "train-files", "dataset", "dataset-name", "dataset-path", "data-dir"),
    "--data.valid-files": ("validation-file", "eval-file", "test-file", "valid-file"),
    "--data.sequence-length": ("max-seq-length", "max-length", "block-size", "max-target-length", "seq-len"),
    "--data.target-length": ("max-target-tokens", "max-answer-length"),
    "--data.tokenizer": ("tokenizer-name", "tokenizer-path", "tokenizer-type"),
    "--data.mask-rate": ("mlm-probability",),
    "--optimizer.name": ("optim", "opt-type"),
    "--optimizer.learning-rate": ("lr", "peak-lr", "max-lr"),
    "--optimizer.final-fraction": ("min-lr", "min-lr-ratio", "cosine-learning-rate-final-fraction"),
    "--optimizer.schedule": ("lr-scheduler-type", "lr-schedule", "scheduler", "decay-lr"),
    "--optimizer.warmup-fraction": ("warmup-ratio", "warmup-steps", "warmup-iters", "warmup"),
    "--optimizer.beta1": ("adam-beta1", "adam-b1"),
    "--optimizer.beta2": ("adam-beta2", "adam-b2"),
    "--optimizer.epsilon": ("adam-epsilon", "adam-eps"),
    "--optimizer.weight-decay": ("wd", "adam-weight-decay"),
    "--optimizer.clip-norm": ("max-grad-norm", "grad-clip", "gradient-clipping-threshold"),
    "--checkpoint.every": ("save-steps", "checkpoint-period", "save-interval", "save-strategy"),
    "--checkpoint.keep-last": ("save-total-limit", "max-to-keep"),
    "--best.metric": ("metric-for-best-model", "load-best-model-at-end"),
    "--best.patience": ("early-stopping-patience",),
    "--model.num-layers": ("n-layer", "num-hidden-layers", "num-decoder-layers", "base-num-decoder-layers"),
    "--model.embed-dim": ("n-embd", "hidden-size", "hidden-dim", "d-model", "base-emb-dim"),
    "--model.num-heads": ("n-head", "num-attention-heads", "base-num-query-heads"),
    "--model.num-kv-heads": ("num-key-value-heads", "base-num-kv-heads"),
    "--model.mlp-dim": ("intermediate-size", "ffn-dim", "base-mlp-dim"),
    "--model.remat": ("gradient-checkpointing", "remat-policy"),
    "--model.dtype bfloat16": ("bf16", "fp16", "mixed-precision", "mp"),
    "--model.lora-rank": ("lora-r", "use-peft"),
    "--mesh.fsdp": ("fsdp", "ici-fsdp-parallelism", "dcn-fsdp-parallelism"),
    "--mesh.tensor": ("tensor-parallel-size", "ici-tensor-parallelism", "model-axis-size"),
}
_OURS = {name: flag for flag, names in _NAMES.items() for name in names}
_NOTES = {
    "--batch-size": "it counts the rows of all devices and all accumulated microbatches",
    "--optimizer.warmup-fraction": "it is a share of all steps",
    "--optimizer.final-fraction": "it is a share of the highest rate",
    "--run-dir": "a run whose --run-dir is given again continues",
}
_CONTINUE = ("resume", "resume-from-checkpoint", "resume-from", "overwrite-output-dir")


def other_name(word: str) -> str | None:
    """What to write for a flag of another trainer, given without its first hyphens; None: unknown."""
    if word in _CONTINUE:
        return "a run continues whenever its --run-dir is given again; for a new run give another --run-dir"
    flag = _OURS.get(word)
    if flag is None:
        return None
    note = _NOTES.get(flag.partition(" ")[0])
    return f"it is {flag} here" + (f"; {note}" if note else "")
