"""Rows of conversations are what transformers' apply_chat_template makes, for templates in the common styles:
token ids, and which of them the assistant wrote, by the prefixes that transformers renders."""

import json
from typing import Any

import numpy as np
import pytest
from chats import write_jsonl
from small_tokenizers import byte_level

from flaxmill.data.batches import Batches
from flaxmill.data.config import DataConfig
from flaxmill.data.preparation.cache import prepare

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if m['role'] == 'assistant' else m['role'] %}
    {{- '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}
"""
MISTRAL = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set system, turns = messages[0]['content'] + '\n\n', messages[1:] %}
{%- else %}
    {%- set system, turns = '', messages %}
{%- endif %}
{{- bos_token }}
{%- for m in turns %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the system message, roles must alternate user/assistant/user/...') }}
    {%- endif %}
    {%- if m['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + m['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + m['content'] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
# Each template, and the tokens that begin a text, end one and end a turn.
STYLES = {
    "chatml": (CHATML, "<|endoftext|>", "<|endoftext|>", "<|im_end|>"),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    "gemma": (GEMMA, "<bos>", "<eos>", "<end_of_turn>"),
    "mistral": (MISTRAL, "<s>", "</s>", "</s>"),
    "zephyr": (ZEPHYR, "<s>", "</s>", "</s>"),
}
MARKS = ("<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>")
SAID = (
    ("user", "What is 2 + 2?"),
    ("assistant", "It is 4.\n\nIs it not?"),
    ("user", "And “déjà vu”?"),
    ("assistant", "今日は: a feeling"),
    ("user", "4"),
    ("assistant", "4"),
)
TURNS = [{"role": role, "content": content} for role, content in SAID]
SYSTEM = {"role": "system", "content": "Be brief."}


def write_tokenizer(directory, style):
    template, bos, eos, turn_end = STYLES[style]
    byte_level(*dict.fromkeys((bos, eos, turn_end, *MARKS))).save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    text = json.dumps(settings | {"chat_template": template})
    (directory / "tokenizer_config.json").write_text(text)
    return directory


def theirs(tokenizer: Any, messages, turn_end):
    """Ids, and whether the assistant wrote each: from the prefix that asks for a turn to the token that ends
    it. Templates end some turns with a line end that no model has to write."""

    def render(some, **asks):
        return tokenizer.apply_chat_template(some, return_dict=True, **asks)["input_ids"]

    ids = render(messages)
    is_answer = np.zeros(len(ids), bool)
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            asked = render(messages[:number], add_generation_prompt=True)
            answered = render(messages[: number + 1])
            assert ids[: len(answered)] == answered
            assert answered[: len(asked)] == asked
            ends = [place for place, token in enumerate(answered) if token == turn_end]
            is_answer[len(asked) : ends[-1] + 1] = True
    return ids, is_answer


@pytest.mark.parametrize("style", STYLES)
def test_packed_rows_are_transformers_tokens_and_learn_the_assistants(style, tmp_path):
    import transformers

    write_tokenizer(tmp_path, style)
    their = transformers.AutoTokenizer.from_pretrained(tmp_path)
    end_id = their.convert_tokens_to_ids(STYLES[style][3])
    conversations = [TURNS[:2], TURNS, TURNS[2:4], TURNS[:4]]
    conversations += [] if style == "gemma" else [[SYSTEM, *TURNS], [SYSTEM, *TURNS[2:]]]
    path = write_jsonl(tmp_path / "chats.jsonl", *conversations)
    config = DataConfig(
        files=(str(path),),
        valid_files=(str(path),),
        tokenizer=str(tmp_path),
        sequence_length=1024,
        packing="best_fit",
    )
    dataset = prepare(config, "conversation", cache=tmp_path / "cache", log=lambda line: None)
    num_rows = dataset.statistics["valid"]["num_rows"]
    batches = Batches(dataset, "valid", config=config, objective="conversation", batch_size=num_rows, seed=0)
    assert num_rows < len(conversations)
    assert rows_as_told(batches.batch(0)) == sorted(
        told(*theirs(their, messages, end_id)) for messages in conversations
    )


def told(ids, is_answer):
    return list(ids), [bool(answer) for answer in is_answer]


def rows_as_told(batch):
    """The conversations of packed rows. A place's weight is that of the token behind it; no first token is
    the assistant's."""
    found = []
    for tokens, documents, weights in zip(batch["tokens"], batch["documents"], batch["weights"], strict=True):
        for document in range(1, documents.max() + 1):
            places = np.flatnonzero(documents == document)
            found.append(told(tokens[places].tolist(), [False, *weights[places][:-1]]))
    return sorted(found)


@pytest.mark.parametrize(
    ("style", "messages", "reason"),
    [
        ("gemma", [SYSTEM, *TURNS], "System role not supported"),
        ("gemma", [TURNS[0], TURNS[0], TURNS[1]], "Conversation roles must alternate"),
        ("mistral", [SYSTEM, TURNS[1]], "roles must alternate"),
    ],
)
def test_what_a_template_refuses_is_one_line_that_names_the_row(style, messages, reason, tmp_path):
    path = write_jsonl(tmp_path / "chats.jsonl", TURNS, messages)
    config = DataConfig(files=(str(path),), tokenizer=str(write_tokenizer(tmp_path, style)))
    with pytest.raises(ValueError, match=rf"row 2 of .* the chat template refuses it \(.*{reason}"):
        prepare(config, "conversation", cache=tmp_path / "cache", log=lambda line: None)
