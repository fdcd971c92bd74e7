"""Measures training steps on one accelerator: MFU, tokens a second, memory; beside PyTorch.

    python benchmarks/mfu.py [CASE ...] [--seconds N] [--peak FLOPS] [--tiny]

Each side of a case runs in a process of its own, one after the other, so that no side holds memory of
another. A step is forward, backward, clipping and AdamW, on a batch that is already on the device;
flaxmill's is the one that `flaxmill train` compiles. The median of several repetitions is printed, each
timed from idle to idle.

MFU is the arithmetic of the model (flaxmill.train.metrics.flops: 6 FLOPs a weight and token, and
attention's two products three times; recomputation does not count) a second, over the device's dense
bfloat16 peak. It is printed twice: attention counted over all pairs of tokens, and over the half that a
causal model sees. --peak gives the peak of a device that the table lacks. PyTorch's side is transformers'
model of the same shape with sdpa attention, bfloat16 autocast and fused AdamW, as it is and by
torch.compile; its BERT's head, too, reads the masked places alone. Each row is one text: PyTorch needs no
mask for it, and flaxmill masks all the same, since its rows may hold several. No side has dropout.

It needs one GPU, with 80 GB for the larger cases, and the extras `cuda` and `parity` with a CUDA build of
PyTorch; on a TPU flaxmill's sides run alone.

No side starts after --seconds, and one that is then running is ended. --tiny makes the shapes small: it
shows on a CPU that all sides run.
"""

import argparse
import dataclasses
import importlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flaxmill.configs.llama3_8b import config as llama3_8b
from flaxmill.model.config import ModelConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.experiment import Experiment

REPETITIONS, REPETITION_SECONDS = 5, 1.0
WARM_STEPS = 3
MEMORY_FRACTION = "0.92"  # of the GPU, for JAX: by default it takes three quarters

# 4 of 32 layers: matrices of the width of 8B, with a state that one GPU holds.
LLAMA_8B_SLICE = dataclasses.replace(llama3_8b.model, num_layers=4)
LLAMA_1B = dataclasses.replace(  # LLaMA 3.2 1B, 1,235,814,400 parameters
    llama3_8b.model, num_layers=16, embed_dim=2048, mlp_dim=8192, tie_embeddings=True
)


class Case(NamedTuple):
    """A model and a batch."""

    config: str | ModelConfig
    """A file in configs/, or a model that predicts the next token."""
    batch_size: int
    num_tokens: int


CASES = {
    "gpt2_124m": Case("gpt2_124m", 32, 1024),
    "llama_1b": Case(LLAMA_1B, 4, 4096),
    "llama_8b_slice": Case(LLAMA_8B_SLICE, 2, 4096),
    "bert_base": Case("bert_base", 64, 512),
    "bert_large": Case("bert_large", 32, 512),
}
# In the order in which they run: what matters most comes first, in case time runs out.
SIDES = (
    *(("gpt2_124m", side) for side in ("cudnn", "torch")),
    *(("llama_1b", side) for side in ("cudnn dots", "torch")),
    *(("llama_8b_slice", side) for side in ("cudnn dots", "torch")),
    *(("bert_large", side) for side in ("cudnn dots", "torch")),
    *(("bert_base", side) for side in ("cudnn", "torch")),
    ("attention", "kernels"),
    *(("gpt2_124m", side) for side in ("xla dots", "cudnn dots")),
    *(("bert_base", "xla dots"), ("llama_1b", "xla full")),
    ("gpt2_124m", "cudnn unrolled"),
)
OPTIONS: dict[str, dict[str, Any]] = {
    "cudnn": {"attention": "cudnn"},
    "xla": {"attention": "xla"},
    "dots": {"remat": "dots"},
    "full": {"remat": "full"},
    "unrolled": {"scan_layers": False},
}


def main() -> int:
    """Run the sides one after the other, and print each result as it comes; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [*CASES, "attention"]
    parser.add_argument("cases", nargs="*", default=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--peak", type=float)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--side", help="run this side of one case here")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: not a case; use one or more of {', '.join(names)}")
    if arguments.side:
        return run_side(arguments.cases[0], arguments.side, arguments)
    started, failures, rates = time.monotonic(), 0, {}
    for case, side in SIDES:
        left = arguments.seconds - (time.monotonic() - started)
        if case not in arguments.cases:
            continue
        if left < 1:
            print(f"{case}, {side}: no time left", flush=True)
            continue
        failures += not start_side(case, side, left, rates)
    for (case, side), rate in rates.items():
        best = max((r for (c, s), r in rates.items() if c == case and s.startswith("torch")), default=None)
        if best and not side.startswith("torch"):
            print(f"{case}, {side}: {rate / best:.2f} times the tokens a second of PyTorch")
    return int(failures > 0)


def start_side(case: str, side: str, seconds: float, rates: dict[tuple[str, str], float]) -> bool:
    """Run one side in a process of its own, pass on its lines, and note its tokens a second."""
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": MEMORY_FRACTION} | os.environ
    others = [argument for argument in sys.argv[1:] if argument.startswith("--tiny")]
    if "--peak" in sys.argv:
        others += sys.argv[sys.argv.index("--peak") :][:2]
    command = [sys.executable, "-u", __file__, case, "--side", side, *others]
    started = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        for line in process.stdout:
            if line.startswith("{"):
                found = json.loads(line)
                rates[case, found["side"]] = found["tokens_per_second"]
            print(line, end="", flush=True)
        process.wait()
        timer.cancel()
    ended = "" if process.returncode == 0 else f", ended with exit code {process.returncode}"
    print(f"-- {case}, {side}: {time.monotonic() - started:.0f} s in all{ended}", flush=True)
    return process.returncode == 0


def run_side(case: str, side: str, arguments: argparse.Namespace) -> int:
    """Measure here; an error is shown, and is only this side's."""
    if case == "attention":
        from sides.mfu_kernels import measure_kernels

        measure_kernels(arguments.tiny)
        return 0
    experiment = make_experiment(CASES[case], side, arguments.tiny)
    if side == "torch":
        from sides.mfu_torch import measure_torch

        measure_torch(case, experiment, arguments.peak)
    else:
        measure_flaxmill(case, side, experiment, arguments.peak)
    return 0


def make_experiment(case: Case, side: str, tiny: bool) -> Experiment:
    """The named experiment on one device, without dropout, with the batch and the options of the side."""
    if isinstance(case.config, ModelConfig):
        experiment = Experiment(name="llama", model=case.config)
    else:
        experiment = importlib.import_module(f"flaxmill.configs.{case.config}").config
    definition, batch_size, num_tokens = experiment.definition, case.batch_size, case.num_tokens
    fields: dict[str, Any] = dict(causal=bool(definition.causal), head=definition.head, dropout=0.0)
    fields |= {"max_positions": num_tokens, "remat": "none"}
    for option in side.split():
        fields |= OPTIONS.get(option, {})
    if tiny:
        batch_size, num_tokens = 2, 64
        fields |= dict(vocab_size=1000, num_layers=2, embed_dim=128, num_heads=4, mlp_dim=256)
        fields |= dict(num_kv_heads=experiment.model.num_kv_heads and 2)
    data = dataclasses.replace(experiment.data, sequence_length=num_tokens)
    return dataclasses.replace(
        experiment,
        batch_size=batch_size,
        accumulate=1,
        model=dataclasses.replace(experiment.model, **fields),
        data=data,
        mesh=MeshConfig(data=1),
    )


def num_predictions(experiment: Experiment) -> int | None:
    """The most places of a row that the head reads; None: all."""
    from flaxmill.data.objectives import data_of, find_function

    bound = data_of(experiment.objective).max_predictions
    return None if bound is None else find_function(bound)(experiment.data)


def make_rows(experiment: Experiment) -> dict[str, np.ndarray]:
    """Random tokens; each row is one text, and as many places have a weight as the head reads. A row to
    classify has one label, and a row of an encoder-decoder as many tokens to write as to read."""
    random = np.random.default_rng(0)
    B, T = experiment.batch_size, experiment.data.sequence_length
    tokens = random.integers(5, experiment.model.vocab_size or 0, (B, T + 1)).astype(np.int32)
    ones = np.ones((B, T), np.int32)
    rows = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "mask": ones, "documents": ones}
    rows |= {"positions": np.broadcast_to(np.arange(T, dtype=np.int32), (B, T)).copy()}
    predictions = num_predictions(experiment)
    order = random.random((B, T)).argsort(axis=1)
    rows["weights"] = (order < (predictions or T)).astype(np.float32)
    if experiment.objective == "mlm_nsp":
        halves = (rows["positions"] >= T // 2).astype(np.int32)
        rows |= {"segments": halves, "nsp_labels": (np.arange(B) % 2).astype(np.int32)}
    if experiment.objective == "classification":
        del rows["targets"]
        classes = experiment.model.num_classes or 1
        rows |= {"labels": np.arange(B, dtype=np.int32) % classes, "weights": np.ones(B, np.float32)}
    if experiment.objective == "seq2seq":
        rows |= {"decoder_tokens": rows["tokens"][::-1].copy(), "decoder_mask": ones}
    return rows


def start_step(experiment: Experiment) -> tuple[Any, Any, Any, Any]:
    """The mesh, the step of `flaxmill train`, and a state and a batch for it."""
    from flaxmill.model.functional import abstract_params
    from flaxmill.model.random_bits import unroll_random_bits
    from flaxmill.sharding.mesh import make_mesh
    from flaxmill.sharding.placement import place_rows
    from flaxmill.train.optimizer.optimizers import make_optimizer
    from flaxmill.train.state import init_state
    from flaxmill.train.step import make_train_step

    unroll_random_bits()
    mesh = make_mesh(experiment.mesh)
    optimizer = make_optimizer(experiment.optimizer, abstract_params(experiment.model))
    step = make_train_step(experiment, optimizer, mesh, num_predictions(experiment))
    batch = place_rows(mesh, make_rows(experiment), experiment.batch_size)
    return mesh, step, init_state(experiment.model, optimizer, mesh, experiment.seed), batch


def measure_flaxmill(case: str, side: str, experiment: Experiment, peak: float | None) -> None:
    """The step of `flaxmill train`."""
    import jax

    mesh, step, state, batch = start_step(experiment)
    with jax.set_mesh(mesh):
        started = time.perf_counter()
        lowered = step.lower(state, batch)
        kernel = "cudnn" if "cudnn$fmha" in lowered.as_text() else "xla"
        compiled = lowered.compile()
        compile_seconds = time.perf_counter() - started
        losses = []

        def run(steps: int) -> None:
            nonlocal state
            for _ in range(steps):
                state, metrics = compiled(state, batch)
                losses.append(metrics["loss"])
            jax.block_until_ready(state)

        seconds = median_seconds(run)
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    notes = {"attention": kernel, "compile_seconds": round(compile_seconds, 1), "jax": jax.__version__}
    notes |= {"loss": round(float(losses[0]), 4), "loss_after": round(float(losses[-1]), 4)}
    report(case, side, experiment, seconds, (device.device_kind, peak), memory, notes)


def median_seconds(run: Callable[[int], None]) -> float:
    """Seconds a step: the median of repetitions of as many steps as take about REPETITION_SECONDS."""
    run(WARM_STEPS)
    started = time.perf_counter()
    run(2)
    steps = max(2, min(50, int(REPETITION_SECONDS / ((time.perf_counter() - started) / 2))))
    times = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        run(steps)
        times.append((time.perf_counter() - started) / steps)
    return statistics.median(times)


def report(
    case: str,
    side: str,
    experiment: Experiment,
    seconds: float,
    device: tuple[str, float | None],
    memory: int,
    notes: dict[str, Any],
) -> None:
    """A line of JSON that says everything."""
    from flaxmill.train.metrics.flops import peak_flops, step_flops

    kind, peak = device
    peak = peak or peak_flops([kind])
    B, T = experiment.batch_size, experiment.data.sequence_length
    flops = step_flops(experiment.model, B, T, num_predictions(experiment))
    mfu = lambda count: None if peak is None else round(count / seconds / peak, 4)  # noqa: E731
    found = {"case": case, "side": side, "rows": B, "tokens": T, "ms": round(seconds * 1e3, 2)}
    found |= {
        "tokens_per_second": round(B * T / seconds),
        "mfu": mfu(flops.full),
        "mfu_causal": mfu(flops.causal),
    }
    found |= {"tflops": round(flops.full / seconds / 1e12, 1), "peak_memory_gb": round(memory / 1e9, 2)}
    print(json.dumps(found | {"device": kind} | notes))


if __name__ == "__main__":
    sys.exit(main())
