"""Windows over a context equal transformers', and every answer is found in the windows that hold it."""

from dataclasses import replace

import numpy as np
import pytest
from small_tokenizers import TEXT, ours, theirs

from flaxmill.data.config import DataConfig
from flaxmill.data.examples.answer_rows import locate_contexts, make_answer_encoder
from flaxmill.data.examples.example import Answer, Example
from flaxmill.data.preparation.cache import prepare

CONFIG = DataConfig(sequence_length=40, stride=10)
KINDS = ("bert", "roberta")


def draw_questions(num: int = 25) -> list[Example]:
    """Contexts of up to three windows and more; every fourth question has no answer."""
    rng = np.random.default_rng(4)
    examples = []
    for number in range(num):
        words = rng.choice(TEXT.split(), rng.integers(2, 50))
        context = " ".join(words)
        first = int(rng.integers(len(words)))
        last = min(first + int(rng.integers(3)), len(words) - 1)
        start = len(" ".join(words[:first])) + (first > 0)
        answer = Answer(" ".join(words[first : last + 1]), start)
        question = " ".join(rng.choice(TEXT.split(), rng.integers(1, 5)))
        examples.append(
            Example((question, context), [answer] if number % 4 else [], {}, f"question {number}")
        )
    return examples


@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_those_of_transformers(kind):
    examples = draw_questions()
    expected = theirs(kind)(
        [example.texts[0] for example in examples],
        [example.texts[1] for example in examples],
        truncation="only_second",
        max_length=CONFIG.sequence_length,
        stride=CONFIG.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    rows, num_cut = make_answer_encoder(CONFIG, ours(kind), ())(examples, 100)
    numbers = np.array(expected["overflow_to_sample_mapping"])
    np.testing.assert_array_equal(rows["number"], 100 + numbers)
    assert num_cut == (np.bincount(numbers) > 1).sum() > 0
    located = list(locate_contexts(examples, CONFIG, ours(kind)))
    assert [number for number, _ in located] == numbers.tolist()
    for row, ids in enumerate(expected["input_ids"]):
        np.testing.assert_array_equal(rows["tokens"][row, : rows["length"][row]], ids)
        np.testing.assert_array_equal(rows["segments"][row, : len(ids)], expected["token_type_ids"][row])
        offsets = located[row][1]
        for place, sequence in enumerate(expected.sequence_ids(row)):
            theirs_ = expected["offset_mapping"][row][place] if sequence == 1 else (-1, -1)
            assert tuple(offsets[place]) == tuple(theirs_)
        assert (offsets[len(ids) :] == -1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_of_start_and_end_spell_the_answer(kind):
    examples = draw_questions()
    rows, _ = make_answer_encoder(CONFIG, ours(kind), ())(examples, 0)
    found = set()
    for row, (number, offsets) in enumerate(locate_contexts(examples, CONFIG, ours(kind))):
        example, start, end = examples[number], rows["start"][row], rows["end"][row]
        inside = offsets[offsets[:, 0] >= 0]
        answer = example.wanted[0] if example.wanted else None
        is_here = answer is not None and (
            inside[0, 0] <= answer.start and inside[-1, 1] >= answer.start + len(answer.text)
        )
        assert (start > 0) == is_here
        if is_here and answer is not None:
            assert example.texts[1][offsets[start, 0] : offsets[end, 1]].strip() == answer.text
            found.add(number)
        else:
            assert end == 0
    assert found == {number for number, example in enumerate(examples) if example.wanted}


def test_an_answer_inside_a_token_is_that_token():
    context = "The quick brown fox"
    example = Example(("Who?", context), [Answer("rown", context.index("rown"))], {}, "question 1")
    rows, _ = make_answer_encoder(CONFIG, ours("bert"), ())([example], 0)
    ((_, offsets),) = locate_contexts([example], CONFIG, ours("bert"))
    spelled = context[offsets[rows["start"][0], 0] : offsets[rows["end"][0], 1]]
    assert "rown" in spelled
    assert spelled in "brown"


def test_an_answer_of_one_character_has_all_its_bytes():
    context, tokenizer = "The 🙂 fox", ours("roberta")
    example = Example(("Who?", context), [Answer("🙂", 4)], {}, "question 1")
    rows, _ = make_answer_encoder(CONFIG, tokenizer, ())([example], 0)
    ids = rows["tokens"][0, rows["start"][0] : rows["end"][0] + 1]
    assert len(ids) > 1
    assert tokenizer.decode(ids).strip() == "🙂"


def test_a_question_that_leaves_no_room_is_refused_unless_the_context_fits():
    question = " ".join(["fox"] * 14)
    encode = make_answer_encoder(CONFIG, ours("bert"), ())
    encode([Example((question, "The dog"), [], {}, "question 1")], 0)
    with pytest.raises(
        ValueError, match=r"^question 2: its question of \d+ tokens leaves room for \d+ of the con"
    ):
        encode([Example((question, TEXT), [], {}, "question 2")], 0)


def test_of_several_answers_the_first_is_trained():
    context = "brown fox and brown dog"
    answers = [Answer("dog", context.index("dog")), Answer("brown", 0)]
    rows, _ = make_answer_encoder(CONFIG, ours("bert"), ())([Example(("Who?", context), answers, {}, "q")], 0)
    ids = rows["tokens"][0, rows["start"][0] : rows["end"][0] + 1]
    assert ours("bert").decode(ids) == "dog"


@pytest.mark.parametrize(("kind", "room"), [("bert", 37), ("roberta", 36)])
def test_windows_that_share_all_their_room_are_refused_with_a_stride_that_works(kind, room):
    config = replace(CONFIG, stride=room)
    message = (
        rf"^data\.stride={room} .* has room for {room} beside {40 - room} special tokens; lower .* to 12, or"
    )
    with pytest.raises(ValueError, match=message):
        make_answer_encoder(config, ours(kind), ())
    for works in (replace(config, stride=12), replace(config, sequence_length=60)):
        rows, _ = make_answer_encoder(works, ours(kind), ())(draw_questions(4), 0)
        assert len(rows["tokens"]) > 4


def test_a_stride_as_long_as_the_rows_is_refused_before_anything_is_read(tmp_path):
    config = DataConfig(files=(str(tmp_path / "none.json"),), sequence_length=64, tokenizer="wordpiece")
    with pytest.raises(ValueError, match=r"data\.stride=64 .* room for 64; lower data\.stride, for"):
        prepare(config, "question_answering", cache=tmp_path)
