"""Conversations and chat templates of the common kinds, for comparing with transformers."""

import json
from pathlib import Path
from typing import Any

from small_tokenizers import byte_level

CONVERSATION: list[dict[str, str]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": " And déjà vu?\n"},
    {"role": "assistant", "content": "  A feeling: it is “known”. 今日は\n\n"},
]
WITHOUT_SYSTEM = CONVERSATION[1:]

SPECIALS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|header|>", "<|eot|>")

HEADERS = (
    "{{- bos_token }}{% for message in messages %}"
    "{{ '<|header|>' + message['role'] + '<|header|>\\n\\n' + message['content'] | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|header|>\\n\\n' }}{% endif %}"
)
INSTRUCTIONS = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + message.content | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message.content | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}
"""
MARKED = """\
{% for message in messages %}
{% if message.role == 'assistant' %}
{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}
{% else %}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# As models that think aloud have it: thoughts are left out of all turns but the last.
THOUGHTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% elif m.role == 'assistant' and '</think>' not in m.content %}<think>\n\n</think>\n\n{{ m.content }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(directory: Path, chat_template: Any = None, **settings: Any) -> Path:
    """A directory with a tokenizer of bytes and SPECIALS, which transformers reads as well."""
    directory.mkdir(parents=True, exist_ok=True)
    byte_level(*SPECIALS).save(str(directory / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    template = {} if chat_template is None else {"chat_template": chat_template}
    (directory / "tokenizer_config.json").write_text(json.dumps(values | template | settings))
    return directory


def write_jsonl(path: Path, *conversations: list[dict[str, Any]], column: str = "messages") -> Path:
    path.write_text("".join(json.dumps({column: messages}) + "\n" for messages in conversations))
    return path
