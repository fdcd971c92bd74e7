"""Which token of a tokenizer begins, ends, separates, pads or masks a text: the one place that knows.

Training, evaluation, generation, filling and export ask the Tokenizer, which asks here.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import models

from flaxmill.data.tokenizer.settings import ROLES, Role, TokenizerSettings

Roles = dict[Role, int]

# A tokenizer with no files beside it has the roles that these common spellings tell.
_SPELLINGS: dict[Role, Sequence[str]] = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"),
    "eos": ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"),
    "unk": ("[UNK]", "<unk>"),
    "sep": ("[SEP]",),
    "pad": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>"),
    "cls": ("[CLS]",),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
}
_ROBERTA: dict[Role, Sequence[str]] = {"cls": ("<s>",), "sep": ("</s>",)}


class Frame(NamedTuple):
    """The ids before and after one text."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def template_frame(inner: tokenizers.Tokenizer) -> Frame:
    """The ids that the tokenizer's own template puts around a text; none where it has no template.

    Raises ValueError where it leaves the text out.
    """
    # Read from a scratch text of one token, since the tokenizer itself may know no token for a text of ours.
    scratch = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    scratch.post_processor = inner.post_processor
    encoding = scratch.encode("a")
    if 0 not in encoding.special_tokens_mask:
        raise ValueError("its template has no place for the text")
    place = encoding.special_tokens_mask.index(0)
    return Frame(tuple(encoding.ids[:place]), tuple(encoding.ids[place + 1 :]))


def find_roles(inner: tokenizers.Tokenizer, settings: TokenizerSettings) -> Roles:
    """Ids by role, as transformers finds them: the spellings of the settings, or the defaults of their class;
    else the ids of generation_config.json and config.json. Without any settings, the common spellings."""
    if settings.are_absent:
        return _spelled_roles(inner, _frames_as_roberta(inner))
    roles: Roles = {}
    for role, text in settings.named_tokens.items():
        if (id_ := inner.token_to_id(text)) is not None:
            roles[role] = id_
    added = inner.get_added_tokens_decoder()
    for role, id_ in settings.token_ids.items():
        # A model's default id may be any word of a tokenizer that the model was not made with.
        if role not in roles and id_ in added:
            roles[role] = id_
    if not settings.names_tokens:
        # A model's directory has no tokenizer settings: spellings decide what neither class nor ids do.
        guessed = _spelled_roles(inner, _frames_as_roberta(inner))
        open_roles = ("pad", "mask", "unk") if roles.keys() & {"bos", "eos", "cls", "sep"} else ROLES
        for role in open_roles:
            if role in guessed:
                roles.setdefault(role, guessed[role])
    return _ordered(roles)


def find_unknown_id(inner: tokenizers.Tokenizer) -> int | None:
    """The id that the model gives to text that it has no piece for, whatever role it has for others."""
    if isinstance(inner.model, models.Unigram):
        return json.loads(inner.to_str())["model"].get("unk_id")
    token = getattr(inner.model, "unk_token", None)
    return None if token is None else inner.token_to_id(token)


def roles_by_spelling(inner: tokenizers.Tokenizer) -> Roles:
    """Ids by role as version 0.1.0 told them, whatever files are beside the tokenizer."""
    return _spelled_roles(inner, _knows_mask(inner))


def _spelled_roles(inner: tokenizers.Tokenizer, is_roberta: bool) -> Roles:
    roles: Roles = {}
    for role, names in (_SPELLINGS | (_ROBERTA if is_roberta else {})).items():
        ids = (inner.token_to_id(name) for name in names)
        if (id_ := next((id_ for id_ in ids if id_ is not None), None)) is not None:
            roles[role] = id_
    if inner.token_to_id("[CLS]") is not None:  # BERT's rows begin and end with other roles
        roles.pop("bos", None)
        roles.pop("eos", None)
    return _ordered(roles)


def _frames_as_roberta(inner: tokenizers.Tokenizer) -> bool:
    """Whether <s> and </s> are [CLS] and [SEP], as in RoBERTa; the <s> of a causal model is not [CLS]."""
    begin, end = inner.token_to_id("<s>"), inner.token_to_id("</s>")
    if not _knows_mask(inner) or begin is None or end is None:
        return False
    return template_frame(inner) in (Frame((), ()), Frame((begin,), (end,)))


def _knows_mask(inner: tokenizers.Tokenizer) -> bool:
    return inner.token_to_id("<mask>") is not None


def _ordered(roles: Mapping[Role, int]) -> Roles:
    return {role: roles[role] for role in ROLES if role in roles}
