"""Measures training steps on a CPU, beside PyTorch's and beside the matrix products that they need.

    python benchmarks/step.py [--only CASE ...] [--dtype D ...] [--dropout RATE] [--rounds N] [--threads N]
                              [--python PROGRAM]

A step is forward, backward, clipping and AdamW. Each side runs in a process of its own, and they take turns.
With one thread they share one core, and the medians of their CPU seconds are printed; with more, the medians
of what passed on the clock, which needs an idle machine. Beside them stand the most memory that each process
has had, and the seconds that the system worked for all of it. --python runs flaxmill's sides with another
interpreter, and so with another JAX.

flaxmill      the step that `flaxmill train` compiles
PyTorch       a short GPT with causal scaled_dot_product_attention, or transformers' BERT with sdpa,
              whose head reads the masked places alone as flaxmill's does; fused AdamW, bfloat16 by autocast
... memory    the same with the settings of memory that `flaxmill train` makes (allocator.py)
products      flaxmill's matrix products alone, each shape on its own: no step of it can be faster

It needs PyTorch and transformers (the extra `parity`).
"""

import argparse
import dataclasses
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from flaxmill.data.config import DataConfig
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.sharding.processes.allocator import give_back_freed_memory, keep_freed_memory
from flaxmill.train.experiment import Experiment

Clock = Callable[[], float]

GPT_10M = dict(num_layers=6, embed_dim=384, num_heads=6)
VOCABULARY = 50_304
"""GPT-2's, rounded up to a multiple of 64, as nanoGPT has it."""
MINILM = dict(num_layers=6, embed_dim=384, num_heads=12, mlp_dim=1536, vocab_size=30_522, num_labels=8)
MINILM |= dict(norm_position="post", embedding_norm=True, num_segments=2, initializer="bert")
"""all-MiniLM-L6-v2 as a classifier."""
TRANSFORMER = dict(num_layers=6, encoder_layers=6, embed_dim=512, num_heads=8, mlp_dim=2048, head_bias=True)
TRANSFORMER |= dict(norm_position="post", positions="sinusoidal", scale_embeddings=True, activation="relu")
TRANSFORMER |= dict(vocab_size=37_000)
"""The base model of Vaswani et al. 2017, table 3; 37,000 entries in common, as for English to German."""


class Case(NamedTuple):
    """A model and a batch."""

    config: str
    """A file in configs/."""
    batch_size: int
    num_tokens: int
    changes: dict[str, Any]
    """Of its model."""


CASES = {
    "gpt_10m": Case("gpt2_124m", 4, 256, GPT_10M | {"vocab_size": 512}),
    "gpt_30m": Case("gpt2_124m", 4, 256, GPT_10M | {"vocab_size": VOCABULARY}),
    "gpt2_124m": Case("gpt2_124m", 1, 1024, {"vocab_size": VOCABULARY}),
    "bert_base": Case("bert_base", 4, 128, {}),
    "minilm": Case("classify", 16, 128, MINILM),
    "transformer": Case("seq2seq", 8, 64, TRANSFORMER),
}
SIDES = ("flaxmill", "PyTorch", "PyTorch, memory", "products")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"]
    )
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--side", choices=SIDES, help="run this side here")
    arguments = parser.parse_args()
    if arguments.side:
        run_side(arguments)
        return 0
    for case in arguments.only:
        for dtype in arguments.dtype:
            compare(case, dtype, arguments)
    return 0


def compare(case: str, dtype: str, arguments: argparse.Namespace) -> None:
    """All sides of a case in turns."""
    common = ["--only", case, "--dtype", dtype, "--dropout", str(arguments.dropout)]
    command = [__file__, *common, "--threads", str(arguments.threads), "--side"]
    programs = {side: sys.executable if "PyTorch" in side else arguments.python for side in SIDES}
    threads = dict.fromkeys(("PJRT_NPROC", "NPROC", "OMP_NUM_THREADS"), str(arguments.threads))
    environment = os.environ | threads | {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
    pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    processes = {side: subprocess.Popen([programs[side], *command, side], **pipes) for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(arguments.rounds + 1):
        for side in SIDES:
            answer = json.loads(_ask(processes[side]))
            seconds[side] += [answer] if turn else []  # the first has loaded and compiled
    median = {side: statistics.median(values) for side, values in seconds.items()}
    kind = "CPU ms" if arguments.threads == 1 else f"ms with {arguments.threads} threads"
    print(f"{case}, {dtype}, dropout {arguments.dropout}, {kind}; load {os.getloadavg()[0]:.1f}")
    for side, process in processes.items():
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        peak, system = json.loads(process.stdout.readline())
        ratio = median[side] / median["flaxmill"]
        print(
            f"  {side:<16}{median[side] * 1e3:8.0f} ms  {ratio:5.2f} of flaxmill's  {peak / 1e3:6.0f} MB  "
            f"{system:5.2f} s of the system's",
            flush=True,
        )
        process.wait()


def _ask(process: subprocess.Popen) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        sys.exit("a side has ended early")
    return line


def run_side(arguments: argparse.Namespace) -> None:
    """Answer each line with the seconds of a step, and their end with peak KB and the system's seconds."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.threads :])
    if arguments.side != "PyTorch":
        keep_freed_memory({})  # JAX is not imported yet
    case = CASES[arguments.only[0]]
    make = {"flaxmill": make_flaxmill, "products": make_products}.get(arguments.side, make_torch)
    experiment = make_experiment(case, arguments.dtype[0], arguments.dropout)
    run = make(experiment, time.process_time if arguments.threads == 1 else time.perf_counter)
    for _ in sys.stdin:
        print(json.dumps(run()), flush=True)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([used.ru_maxrss, used.ru_stime]))


def make_experiment(case: Case, dtype: str, dropout: float) -> Experiment:
    """What `flaxmill train` would be given."""
    named = importlib.import_module(f"flaxmill.configs.{case.config}").config
    fields: dict[str, Any] = case.changes | dict(dtype=dtype, dropout=dropout, max_positions=case.num_tokens)
    fields |= dict(head=named.definition.head, causal=bool(named.definition.causal))
    fields |= dict(scan_layers=False, remat="none")
    return Experiment(
        objective=named.objective,
        batch_size=case.batch_size,
        model=dataclasses.replace(named.model, **fields),
        data=DataConfig(sequence_length=case.num_tokens, target_length=case.num_tokens),
        mesh=MeshConfig(data=1),
    )


def make_flaxmill(experiment: Experiment, clock: Clock) -> Callable[[], float]:
    """The compiled step."""
    import jax
    from mfu import start_step

    mesh, step, state, batch = start_step(experiment)
    with jax.set_mesh(mesh):
        step.lower(state, batch).compile()
    give_back_freed_memory()

    def run() -> float:
        nonlocal state
        started = clock()
        with jax.set_mesh(mesh):
            state, _ = step(state, batch)
            jax.block_until_ready(state)
        return clock() - started

    return run


def make_torch(experiment: Experiment, clock: Clock) -> Callable[[], float]:
    """The same step in PyTorch."""
    from mfu import make_rows
    from sides.step_torch import make_torch_step

    step = make_torch_step(experiment, make_rows(experiment))
    return lambda: seconds_of(step, clock)


def make_products(experiment: Experiment, clock: Clock) -> Callable[[], float]:
    """The products of a step, by shape, as often as the step has them."""
    from sides.step_products import compile_products

    products = compile_products(experiment)
    return lambda: sum(number * seconds_of(product, clock) for product, number in products)


def seconds_of(run: Callable[[], Any], clock: Clock) -> float:
    started = clock()
    run()
    return clock() - started


if __name__ == "__main__":
    sys.exit(main())
