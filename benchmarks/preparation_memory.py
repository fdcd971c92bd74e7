"""Measures the memory of a preparation while it reads a corpus: it must stay flat.

    python benchmarks/preparation_memory.py [--gigabytes 5] [--workers 2] [--folder DIR]

Writes the corpus as eight files of JSONL (see preparation_text.py), kept in FOLDER, and prepares it with the
byte-level BPE of preparation_rate.py in a process of its own. Every tenth of a second it looks into /proc for
the resident memory of that process and of its workers, in sum, and for how far their files are read. Prints
the peak of each part of the corpus. The exit status is 1 if the peak of the last part is more than a tenth
above the peak of the second.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from preparation_text import keep_tokenizer, write_jsonl

BAR = 1.1
NUM_FILES = 8
PARTS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the corpus: 0.5, 1, 2, 3, 4 and 5 GB of 5
SAMPLE_SECONDS = 0.1
PROGRAM = """
import sys
from pathlib import Path
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare
from flaxmill.data.preparation.means import Means

if __name__ == "__main__":
    cache, workers, tokenizer, *files = sys.argv[1:]
    config = DataConfig(files=tuple(files), text_column="text", tokenizer=tokenizer, sequence_length=1024)
    prepare(config, "causal", cache=Path(cache), means=Means(num_workers=int(workers)), log=lambda line: None)
"""


class Sample(NamedTuple):
    """What /proc says of a process and its descendants."""

    num_processes: int
    resident_bytes: int
    positions: dict[str, int]
    """How far each file of the corpus that is open is read, in bytes."""


def family(root: int) -> list[int]:
    """The process and its descendants."""
    found = [root]
    for number in found:  # grows meanwhile
        for tasks in Path(f"/proc/{number}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, tasks.read_text().split())
    return found


def look(root: int, folder: Path) -> Sample:
    """A process that ends meanwhile counts as far as it was seen."""
    resident, positions, processes = 0, {}, family(root)
    for number in processes:
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
            resident += pages * os.sysconf("SC_PAGE_SIZE")
            for descriptor in Path(f"/proc/{number}/fd").iterdir():
                with contextlib.suppress(OSError):
                    name = os.readlink(descriptor)
                    if name.startswith(str(folder)) and name.endswith(".jsonl"):
                        place = Path(f"/proc/{number}/fdinfo/{descriptor.name}").read_text().split()[1]
                        positions[name] = max(positions.get(name, 0), int(place))
    return Sample(len(processes), resident, positions)


def watch(process: subprocess.Popen, folder: Path, num_bytes: int) -> list[int]:
    """The peak of resident memory in each part of the corpus; prints each when its part is read."""
    peaks, done, part, started = [0] * len(PARTS), dict[str, int](), 0, time.monotonic()
    num_processes = 1
    while process.poll() is None:
        sample = look(process.pid, folder)
        num_processes = max(num_processes, sample.num_processes)
        peaks[part] = max(peaks[part], sample.resident_bytes)
        for name, place in sample.positions.items():
            done[name] = max(done.get(name, 0), place)
        while part < len(PARTS) - 1 and sum(done.values()) >= PARTS[part] * num_bytes:
            report(PARTS[part] * num_bytes, peaks[part], started)
            part += 1
        time.sleep(SAMPLE_SECONDS)
    report(num_bytes, peaks[-1], started)
    print(f"at most {num_processes} processes at once")
    return peaks


def report(num_bytes: float, peak: int, started: float) -> None:
    """Prints the peak of a part of the corpus."""
    seconds = time.monotonic() - started
    print(f"up to {num_bytes / 1e9:.2f} GB: peak {peak / 1e6:,.0f} MB, after {seconds:,.0f} s", flush=True)


def main() -> int:
    """Makes the corpus, prepares it and watches."""
    parser = argparse.ArgumentParser(description="Memory of a preparation.")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "flaxmill-preparation")
    given = parser.parse_args()
    folder = given.folder.absolute() / f"memory-{given.gigabytes:g}"
    files = write_jsonl(folder, int(given.gigabytes * 1e9), NUM_FILES, respelled=False)
    tokenizer = keep_tokenizer(given.folder.absolute())
    num_bytes = sum(file.stat().st_size for file in files)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        program = Path(cache, "program.py")
        program.write_text(PROGRAM)
        command = [sys.executable, program, cache, str(given.workers), tokenizer, *files]
        process = subprocess.Popen([*map(str, command)])
        try:
            peaks = watch(process, folder, num_bytes)
        finally:
            process.kill()
            process.wait()
    growth = peaks[-1] / peaks[1]
    print(f"the last part's peak / the second's: {growth:.3f}, bar {BAR}")
    return process.returncode or int(growth > BAR)


if __name__ == "__main__":
    sys.exit(main())
