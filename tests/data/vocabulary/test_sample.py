"""A sample is drawn from the whole stream, within its bytes."""

from hypothesis import given
from hypothesis import strategies as st

from flaxmill.data.text.corpora import Document
from flaxmill.data.vocabulary.sample import draw_documents


def documents(texts):
    return [Document(text, "prose") for text in texts]


@given(st.lists(st.text(min_size=1, max_size=9)), st.integers(1, 60))
def test_a_sample_keeps_its_limit_and_the_order(texts, num_bytes):
    stream = [document._replace(place=str(number)) for number, document in enumerate(documents(texts))]
    drawn = draw_documents(stream, num_bytes)
    assert drawn == [document for document in stream if document in drawn]
    assert len(drawn) == 1 or sum(len(document.text.encode()) for document in drawn) <= num_bytes
    assert bool(drawn) == bool(texts)


def test_all_of_a_short_stream_is_taken():
    stream = documents(["a", "bb", "ccc"])
    assert draw_documents(stream, 6) == stream


def test_a_sample_is_drawn_from_all_of_a_stream_and_not_from_its_head():
    stream = documents(f"{number:04}" for number in range(1000))
    drawn = [int(document.text) for document in draw_documents(stream, 400)]
    assert len(drawn) == 100
    # A hundred draws from a thousand: each quarter is expected to have 25, with a deviation below 4.2.
    assert all(8 <= sum(number // 250 == quarter for number in drawn) <= 42 for quarter in range(4))


def test_a_draw_is_a_document_s_own_whatever_follows():
    short, long = documents("abcdefgh" * 10), documents("abcdefgh" * 20)
    few, many = (set(map(id, draw_documents(stream, 20))) for stream in (short, short + long[80:]))
    assert many - few <= set(map(id, long[80:]))
