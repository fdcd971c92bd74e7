"""Bad rows are counted and skipped where data.bad_rows=skip asks for it; else the first one is an error."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from flaxmill.data.files.rows import Refuse, raise_error

Item = TypeVar("Item")


class SkippedRows:
    """The bad rows of each source, counted while it is read; reading it again counts again from 0."""

    def __init__(self):
        self._counts: dict[str, int] = {}
        self._errors: dict[str, str] = {}

    @property
    def total(self) -> int:
        return sum(self._counts.values())

    def describe(self) -> str:
        """How many there are, and the first one: "3 bad rows, the first: line 2 of a.jsonl ..."."""
        first = next((self._errors[name] for name, count in self._counts.items() if count), "")
        rows = "row" if self.total == 1 else "rows"
        return f"{self.total:,} bad {rows}" + (f", the first: {first}" if first else "")

    def record(self) -> dict[str, list]:
        """The count of each source and its first error, as JSON can hold them."""
        return {name: [count, self._errors.get(name, "")] for name, count in self._counts.items()}

    def restore(self, recorded: dict[str, list]) -> None:
        """Takes over what was recorded when these sources were read before."""
        for name, (count, error) in recorded.items():
            self._counts[name], self._errors[name] = count, error

    def begin(self, name: str) -> Refuse:
        """What is to be done about the bad rows of a source whose reading begins."""
        self._counts[name] = 0

        def count(error: ValueError) -> None:
            self._counts[name] += 1
            if self._counts[name] == 1:
                self._errors[name] = str(error)

        return count


def read_good(
    name: str, read: Callable[[Refuse], Iterator[Item]], skipped: SkippedRows | None
) -> Iterator[Item]:
    """What is read without its bad rows. Raises ValueError for the first bad row if there is no good one, or
    if `skipped` is None."""
    if skipped is None:
        yield from read(raise_error)
        return
    count = skipped.begin(name)
    first: list[ValueError] = []

    def refuse(error: ValueError) -> None:
        count(error)
        first[1:] = []
        first.append(error)

    has_good = False
    for item in read(refuse):
        has_good = True
        yield item
    if first and not has_good:
        raise first[0]
