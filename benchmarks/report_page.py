"""Measures `flaxmill report` on a run of 200,000 logged rows, and on one of 20.

    python benchmarks/report_page.py [ROUNDS]

Prints the page's bytes, the seconds of the whole command as a process of its own (medians of the rounds,
after one that is not measured), and, where Chromium is installed, the milliseconds in which the page
draws its curves at 1280 and at 390 pixels (the median of as many loads). The exit status is 1 if a bar is
missed.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from browser import Page, find_browser, open_browser  # noqa: E402
from reported_runs import rows_of, write_run  # noqa: E402

ROUNDS = 5
PROGRAM = "from flaxmill.train.command_line import main; main()"
SIZES = {"20 rows": 20, "200,000 rows": 200_000}
WIDTHS = (1280, 390)
BARS = {"bytes": 2_000_000, "seconds": 5.0, "drawn": 1000.0}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    missed = []
    with tempfile.TemporaryDirectory() as directory:
        for name, num_rows in SIZES.items():
            run = write_run(
                Path(directory) / str(num_rows), rows_of(num_rows, eval_every=max(10, num_rows // 200))
            )
            page = run.with_suffix(".html")
            seconds, cpu_seconds = make_page(run, page, rounds)
            found: dict[str, float] = {"seconds": seconds, "bytes": page.stat().st_size}
            found |= {f"drawn at {width}": value for width, value in draw_page(page, rounds).items()}
            missed += [name for name in found if found[name] > BARS[name.partition(" ")[0]]]
            drawn = [f"{what} {value:.0f} ms" for what, value in found.items() if what.startswith("drawn")]
            made = f"{found['bytes']:,} bytes made in {seconds:.2f} s ({cpu_seconds:.2f} s of CPU)"
            print(f"{name:>12}: {', '.join([made, *(drawn or ['no Chromium'])])}")
    sys.exit(bool(missed))


def make_page(run: Path, page: Path, rounds: int) -> tuple[float, float]:
    """Median seconds of the command, and of CPU."""
    command = [sys.executable, "-c", PROGRAM, "report", str(run), "--output", str(page)]
    seconds, cpu_seconds = [], []
    for _ in range(rounds + 1):
        started, used = time.perf_counter(), _children_cpu()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(_children_cpu() - used)
    return statistics.median(seconds[1:]), statistics.median(cpu_seconds[1:])


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def draw_page(path: Path, rounds: int) -> dict[int, float]:
    """Median milliseconds of the page's script by width, as it says itself."""
    if find_browser() is None:
        return {}
    with open_browser() as page:
        return {width: statistics.median(_draw(page, path, width) for _ in range(rounds)) for width in WIDTHS}


def _draw(page: Page, path: Path, width: int) -> float:
    page.open(path, width=width)
    return float(page.value("document.documentElement.dataset.drawn"))


if __name__ == "__main__":
    main()
