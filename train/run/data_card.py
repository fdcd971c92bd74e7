"""RUN/data_card.json: the card of the data that a run trains on, kept where the data itself may not be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxmill.data.json_text import dump_json
from flaxmill.data.whole_files import write_whole_text

CARD_FILE = "data_card.json"


def write_data_card(directory: Path, cards: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the cards of a run's datasets, by the names of their sources, whole or not at all."""
    for partial in directory.glob(f".*-{CARD_FILE}"):  # the run is locked: nobody writes it any more
        partial.unlink(missing_ok=True)
    write_whole_text(directory / CARD_FILE, dump_json(cards) + "\n")


def read_data_card(directory: Path) -> dict[str, dict[str, Any]] | None:
    """The cards by the names of their sources; None where the run, of an earlier version, has none.

    Raises:
      ValueError: the file is damaged.
    """
    path = directory / CARD_FILE
    if not path.exists():
        return None
    try:
        cards = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it: it only describes the data") from None
    if not isinstance(cards, dict) or not all(isinstance(card, dict) for card in cards.values()):
        raise ValueError(f"{path} is damaged: it holds no cards; delete it: it only describes the data")
    return cards
