"""A LLaMA of one layer that knows one sentence, with LLaMA-2's kind of tokenizer, as a directory."""

import functools
import json
import tempfile
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, processors

SENTENCE = "a grey cat sleeps all day"
_STEPS = 80
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""A user's turn is the beginning of the sentence, and the assistant's is the rest."""


def make_tokenizer() -> tokenizers.Tokenizer:
    """Words with a leading blank, which the decoder strips from the front of a text; bytes for the rest."""
    words = [f"▁{word}" for word in SENTENCE.split()]
    merges = list(dict.fromkeys((word[:i], word[i]) for word in words for i in range(1, len(word))))
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [*sorted({letter for word in words for letter in word[1:]}), *words]
    pieces += [first + second for first, second in merges]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    inner = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # type: ignore[abstract]
    inner.decoder = decoders.Sequence(  # type: ignore[abstract]
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]  # type: ignore[abstract]
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="$A $B:1", special_tokens=[("<s>", 1)]
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return inner


@functools.cache
def directory() -> Path:
    """A directory with tokenizer.json, config.json and weights, and no other setting of the tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    path, inner = Path(tempfile.mkdtemp(prefix="flaxmill-llama-")), make_tokenizer()
    inner.save(str(path / "tokenizer.json"))
    config = transformers.LlamaConfig(
        vocab_size=inner.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    model = transformers.LlamaForCausalLM(config)
    ids = torch.tensor([[*inner.encode(SENTENCE).ids, inner.token_to_id("</s>")]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(_STEPS):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    (path / "generation_config.json").unlink()
    return path


def give_template(path: Path) -> Path:
    """Write CHAT_TEMPLATE beside a copy of the tokenizer."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT_TEMPLATE}))
    return path
