"""The stages of a preparation on Apache Beam, for a corpus that outgrows one machine.

Beam's workers must see the same files as this process, and the same cache. They run the functions that local
workers run, so the rows are the same; what they have done is in the work directory, whichever runner it was.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flaxmill.data.config import DataConfig, Layout
from flaxmill.data.files.specs import OWN
from flaxmill.data.preparation.encoding import make_part_encoder
from flaxmill.data.preparation.groups import Group, encode_groups, group_at
from flaxmill.data.preparation.text_corpus import find_text
from flaxmill.data.preparation.work_directory import WorkDirectory, read_json, write_json
from flaxmill.data.text.held_out import say_nothing

# Its workers would log each bundle, and each of themselves.
_QUIET = ("--default_sdk_harness_log_level=ERROR",)


def check_beam(config: DataConfig) -> None:
    """Raises ValueError where Beam is not installed, or its workers could not read the text."""
    _find_beam()
    own = [spec for spec in (*config.files, *config.valid_files) if spec.startswith(OWN)]
    if own:
        raise ValueError(
            f"{own[0]} is defined in this process, and Beam's workers are others; leave out --beam, or "
            "write its rows to files"
        )


def encode_on_beam(
    groups: Sequence[Group],
    work: WorkDirectory,
    config: DataConfig,
    layout: Layout,
    inventory: dict[str, list],
    flags: Sequence[str],
) -> None:
    """Encodes all groups, each in one worker. Raises what Beam raises where a worker fails."""
    arguments = (work, config, layout, inventory)
    tasks = [(group.number, group.place) for group in groups]
    _run_all(make_group_encoder, arguments, work, tasks, flags)


def run_on_beam(
    make: Callable[..., Callable],
    arguments: tuple,
    tasks: Iterator[Any],
    *,
    work: WorkDirectory,
    flags: Sequence[str],
) -> Iterator[Any]:
    """As `run_in_order`, for tasks that leave what they have done in the work directory."""
    known = list(tasks)
    if known:
        _run_all(make, arguments, work, known, flags)
    yield from map(make(*arguments), known)  # nothing is left to do


def make_group_encoder(
    work: WorkDirectory, config: DataConfig, layout: Layout, inventory: dict[str, list]
) -> Callable[[tuple[int, tuple[int, int, int]]], None]:
    """What reads and encodes the group with a number and a place, unless that is done.

    It raises ValueError where this worker finds other files than the process that started it.
    """
    corpus = find_text(config, layout, say_nothing)
    if corpus.inventory != inventory:
        raise ValueError(
            f"{corpus.name} is not the same for a worker of Beam as where it was started; all must see the "
            "same files, with the same times"
        )
    streams = corpus.streams()
    encode = make_part_encoder(config, layout, work.tokenizer)

    def run(task: tuple[int, tuple[int, int, int]]) -> None:
        encode_groups([group_at(streams, *task)], work, lambda tasks: map(encode, tasks), say_nothing)

    return run


def _run_all(
    make: Callable[..., Callable],
    arguments: tuple,
    work: WorkDirectory,
    tasks: Sequence[Any],
    flags: Sequence[str],
) -> None:
    beam = _find_beam()

    class Work(beam.DoFn):
        """Makes the function once in each worker, and calls it for each task."""

        run: Callable | None = None

        def process(self, element):
            try:
                self.run = self.run or make(*arguments)
                self.run(element)
            except ValueError as error:  # Beam would hand over a page of text
                write_json(work.mistake, str(error))
                raise

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    options = beam.options.pipeline_options.PipelineOptions([*_QUIET, *flags])
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.ParDo(Work())
    except Exception:
        if (mistake := read_json(work.mistake)) is not None:
            raise ValueError(mistake) from None
        raise


def _find_beam() -> Any:
    try:
        import apache_beam  # type: ignore[import-not-found]
    except ImportError:
        raise ValueError(
            "--beam needs Apache Beam; install it with `pip install 'flaxmill[beam]'`, in an environment of "
            "its own if it does not fit the packages of this one"
        ) from None
    return apache_beam
