"""Measures the memory of each stage of a preparation, for a fifth of a corpus and for the whole.

    python benchmarks/preparation_memory.py [--gigabytes 5] [--workers 2] [--folder DIR]

Writes the corpus as ten files of JSONL (see preparation_text.py), kept in FOLDER. Prepares two of them and
then all, with the byte-level BPE of preparation_rate.py, each time in a process of its own. Every tenth of a
second it looks into /proc for the resident memory of that process and of its workers, in sum. Prints the peak
of each stage for both, and their ratio: memory must be flat. The exit status is 1 if a ratio is above 1.1.

A preparation keeps at most 4 million tokens of each split for the entropies, and as many for the search. A
fifth below 0.3 GB holds out fewer than these, so there the whole takes more.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from preparation_text import keep_tokenizer, write_jsonl

BAR = 1.1
NUM_FILES, NUM_FIRST = 10, 2
SAMPLE_SECONDS = 0.1
STAGES = {
    "": "reading and encoding",
    "make_plan": "plan",
    "make_units": "rows",
    "unigram_entropy": "entropy",
    "measure_contamination": "search for held-out text",
}
"""Functions of `text_building` whose first calls begin stages."""
PROGRAM = """
import sys
from pathlib import Path
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation import text_building
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.preparation.means import Means

def announced(name, function):
    def run(*arguments, **named):
        Path(cache, "stage").write_text(name)
        return function(*arguments, **named)
    return run

if __name__ == "__main__":
    cache, workers, tokenizer, names, *files = sys.argv[1:]
    for name in filter(None, names.split(",")):
        setattr(text_building, name, announced(name, getattr(text_building, name)))
    config = DataConfig(files=tuple(files), text_column="text", tokenizer=tokenizer, sequence_length=1024)
    prepare(config, "causal", cache=Path(cache), means=Means(num_workers=int(workers)), log=lambda line: None)
"""


def family(root: int) -> list[int]:
    """The process and its descendants."""
    found = [root]
    for number in found:  # grows meanwhile
        for tasks in Path(f"/proc/{number}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, tasks.read_text().split())
    return found


def resident_bytes(processes: list[int]) -> int:
    """Resident memory in sum; a process that ends meanwhile counts as nothing."""
    pages = 0
    for number in processes:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{number}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def watch(process: subprocess.Popen, stage_file: Path) -> dict[str, int]:
    """The peak of resident memory in each stage."""
    peaks = dict.fromkeys(STAGES, 0)
    while process.poll() is None:
        stage = stage_file.read_text() if stage_file.exists() else ""
        if stage in peaks:  # it is being written where it is cut short
            peaks[stage] = max(peaks[stage], resident_bytes(family(process.pid)))
        time.sleep(SAMPLE_SECONDS)
    return peaks


def measure(files: list[Path], tokenizer: Path, workers: int) -> dict[str, int]:
    """Prepares the files in a process of its own; the peak of each stage, in bytes."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=files[0].parent) as cache:
        program = Path(cache, "program.py")
        program.write_text(PROGRAM)
        command = [sys.executable, program, cache, workers, tokenizer, ",".join(STAGES), *files]
        process = subprocess.Popen([*map(str, command)])
        try:
            peaks = watch(process, Path(cache, "stage"))
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise SystemExit(f"the preparation ended with status {process.returncode}")
    print(f"{size_of(files):.2f} GB prepared in {time.monotonic() - started:,.0f} s", flush=True)
    return peaks


def size_of(files: list[Path]) -> float:
    """Gigabytes."""
    return sum(file.stat().st_size for file in files) / 1e9


def main() -> int:
    """Makes the corpus, prepares a fifth and all of it, and compares."""
    parser = argparse.ArgumentParser(description="Memory of a preparation.")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "flaxmill-preparation")
    given = parser.parse_args()
    folder = given.folder.absolute() / f"memory-{given.gigabytes:g}"
    files = write_jsonl(folder, int(given.gigabytes * 1e9), NUM_FILES, respelled=False)
    tokenizer = keep_tokenizer(given.folder.absolute())
    few, all_ = (measure(chosen, tokenizer, given.workers) for chosen in (files[:NUM_FIRST], files))
    print(f"peak in MB of {size_of(files[:NUM_FIRST]):.2f} GB / of {size_of(files):.2f} GB:")
    for stage, name in STAGES.items():
        ratio = all_[stage] / few[stage]
        print(f"{name}: {few[stage] / 1e6:,.0f} / {all_[stage] / 1e6:,.0f}, ratio {ratio:.3f}, bar {BAR}")
    return int(any(all_[stage] / few[stage] > BAR for stage in STAGES))


if __name__ == "__main__":
    sys.exit(main())
