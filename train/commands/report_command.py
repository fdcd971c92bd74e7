"""`flaxmill report`: runs as one HTML page."""

from dataclasses import dataclass

from flaxmill.data.files.local_paths import local_path
from flaxmill.train.overrides import override
from flaxmill.train.terminal.output_places import file_place

DESCRIPTION = """Writes one HTML page about one or more runs, laid over one another: curves of losses,
evaluations, gradient norm, learning rate and speed, skipped steps and rollbacks, what differs between the
configs, samples, confusion matrices, and the data. The page needs no network and no other file."""
DEFAULT_OUTPUT = "report.html"


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """What `flaxmill report` takes."""

    output: str = DEFAULT_OUTPUT
    """The file to write; one that is there is replaced."""


def run(arguments: list[str]) -> None:
    """Write the page. Raises ValueError for what is not a run, is damaged, or cannot be written."""
    num_runs = next((n for n, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    runs, flags = arguments[:num_runs], arguments[num_runs:]
    parsed = override(
        ReportArguments(), flags, program="flaxmill report", usage="RUN [RUN ...]", description=DESCRIPTION
    )
    if not runs:
        raise ValueError("no run given; runs come first: flaxmill report RUN [RUN ...] [--output FILE.html]")
    directories = [local_path(text, "RUN") for text in runs]
    path = file_place(parsed.output, "output", DEFAULT_OUTPUT)
    from flaxmill.data.whole_files import write_whole_text
    from flaxmill.train.report.page import make_page
    from flaxmill.train.report.run_files import read_runs

    page = make_page(read_runs(directories))
    write_whole_text(path, page)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
