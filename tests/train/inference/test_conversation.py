"""A conversation's answers are those of transformers; what does not fit is dropped from its beginning."""

import shutil
from typing import Any

import pytest
import small_llama

from flaxmill.model import GenerationConfig
from flaxmill.train.inference.conversation import Conversation
from flaxmill.train.inference.text_model import load_text_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model of 64 positions that knows one sentence, and a template that writes contents alone."""
    path = shutil.copytree(small_llama.directory(), tmp_path_factory.mktemp("llama") / "chat")
    return small_llama.give_template(path)


def begin(directory, system="", **options):
    fields: dict[str, Any] = {"max_new_tokens": 8} | options
    return Conversation(load_text_model(directory), GenerationConfig(**fields), system)


def ask(conversation, said):
    return "".join(conversation.answer(said))


def test_answers_are_those_of_transformers_and_stop_at_the_end_of_the_turn(directory):
    import transformers

    their = transformers.AutoTokenizer.from_pretrained(directory)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory)
    conversation, messages = begin(directory), []
    for said in ("a grey", "day a", "cat"):
        messages.append({"role": "user", "content": said})
        ids = their.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")[
            "input_ids"
        ]
        written = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        messages.append(
            {"role": "assistant", "content": their.decode(written, skip_special_tokens=True).lstrip()}
        )
        assert ask(conversation, said) == messages[-1]["content"]
    assert conversation.messages == messages
    assert messages[1]["content"] == "cat sleeps all day"


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(directory):
    conversation = begin(directory, max_new_tokens=30)
    answer = conversation.answer("a grey")
    first = next(answer)
    answer.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": first}
    conversation.reset()
    assert conversation.messages == []


def test_the_oldest_turns_are_dropped_and_the_system_stays(directory):
    conversation = begin(directory, system="cat cat")
    for number in range(6):
        ask(conversation, f"{number} a grey")
    system, *turns = conversation.messages
    assert (system["role"], turns[0]["role"], turns[-2]["content"]) == ("system", "user", "5 a grey")
    assert conversation.num_dropped > 0
    assert len(turns) + conversation.num_dropped == 12
    assert len(conversation._read(conversation.messages[:-1])) <= 64 - 8


def test_a_message_too_long_for_the_model_is_refused_and_not_kept(directory):
    conversation = begin(directory)
    ask(conversation, "a grey")
    before = list(conversation.messages)
    with pytest.raises(
        ValueError, match=r"prompt of \d+ tokens, .* no room in model.max_positions=64; short"
    ):
        ask(conversation, "x" * 70)
    with pytest.raises(ValueError, match="the message is not UTF-8 at character 1"):
        ask(conversation, "a\udcff")
    assert conversation.messages == before
    assert ask(conversation, "x" * 58)  # room for less than max_new_tokens is room


def test_each_draw_has_the_next_seed(directory):
    def draw():
        conversation = begin(directory, temperature=3.0, seed=2**32 - 1)
        return [ask(conversation, "a") or conversation.reset() or ask(conversation, "a") for _ in range(2)]

    assert draw() == draw()


def test_what_cannot_converse_is_one_line(directory, tmp_path):
    model = load_text_model(small_llama.directory())
    with pytest.raises(ValueError, match=r"has no chat template, .* beside its tokenizer.json, or train it"):
        Conversation(model, GenerationConfig())
    shutil.copytree(directory, tmp_path / "a")
    (tmp_path / "a" / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    )
    with pytest.raises(ValueError, match=r"no conversation can begin, .*\(No system\); leave out the system"):
        begin(tmp_path / "a", system="Be brief.")
    encoder = model._replace(config=model.config.__class__(head="mlm", vocab_size=10))
    with pytest.raises(ValueError, match=r"needs a causal model, .* model.head=mlm; name another"):
        Conversation(encoder, GenerationConfig())
