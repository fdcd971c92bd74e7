"""The datasets of a mixture's sources, together."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flaxmill.data.prepared.dataset import Dataset

_SUMMED = ("num_documents", "num_tokens", "num_leading", "num_bytes", "num_rows")


class MixedDataset:
    """One dataset for each source, all of the same layout and with the same tokenizer.

    sources: the datasets that are trained on, by name; their held-out rows are evaluated apart.
    held_out: datasets that are evaluated alone, by name.
    statistics: sums over the sources; those of one source are in its own dataset.
    """

    def __init__(self, sources: Mapping[str, Dataset], held_out: Mapping[str, Dataset]):
        self.sources, self.held_out = dict(sources), dict(held_out)
        first = next(iter(self.sources.values()))
        self.directory = first.directory
        self.layout = first.layout
        self.sequence_length = first.sequence_length
        self.vocab_size = first.vocab_size
        self.settings: dict[str, Any] = first.settings
        self.tokenizer = first.tokenizer
        self.labels: tuple[str, ...] = ()
        self.label_names = first.label_names
        self.corpus = ", ".join(self.sources)
        prints = {name: dataset.fingerprint for name, dataset in {**self.sources, **self.held_out}.items()}
        self.fingerprint = hashlib.sha256(json.dumps(prints).encode()).hexdigest()
        self.statistics: dict[str, dict[str, Any]] = {
            split: _add_up([dataset.statistics[split] for dataset in self.sources.values()])
            for split in ("train", "valid")
        }

    def close(self) -> None:
        """Closes the files; they open again at the next read."""
        for dataset in (*self.sources.values(), *self.held_out.values()):
            dataset.close()


def parts_of(dataset: "AnyDataset") -> dict[str, Dataset]:
    """The dataset, or those of a mixture, by the names of their sources."""
    if isinstance(dataset, MixedDataset):
        return dataset.sources | dataset.held_out
    return {"": dataset}


AnyDataset = Dataset | MixedDataset
"""What a run reads: one dataset, or a mixture of several."""


def _add_up(statistics: list[dict[str, Any]]) -> dict[str, Any]:
    added: dict[str, Any] = {
        name: sum(of_one[name] for of_one in statistics) for name in _SUMMED if name in statistics[0]
    }
    if "nsp_majority" in statistics[0]:
        majority = sum(of_one["nsp_majority"] * of_one["num_rows"] for of_one in statistics)
        added["nsp_majority"] = majority / added["num_rows"]
    return added
