"""The card of a run's data: written whole, read back, and a damaged one named."""

import pytest

from flaxmill.train.run.data_card import CARD_FILE, read_data_card, write_data_card


def test_a_card_is_read_back(tmp_path):
    assert read_data_card(tmp_path) is None
    (tmp_path / f".0123-{CARD_FILE}").write_text("half of one")
    cards = {"web": {"source": "web.txt", "mean": float("nan")}, "books": {}}
    write_data_card(tmp_path, cards)
    assert read_data_card(tmp_path) == {"web": {"source": "web.txt", "mean": None}, "books": {}}
    assert [path.name for path in tmp_path.iterdir()] == [CARD_FILE]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"": []}', b"\xff", b"[" * 100_000])
def test_a_damaged_card_is_named(content, tmp_path):
    (tmp_path / CARD_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^[^\n]*{CARD_FILE} is damaged: [^\n]*delete it"):
        read_data_card(tmp_path)


def test_a_card_that_is_no_file_is_named(tmp_path):
    (tmp_path / CARD_FILE).mkdir()
    with pytest.raises(ValueError, match=f"{CARD_FILE} is damaged"):
        read_data_card(tmp_path)
