"""Text to token ids and back, by a tokenizer that knows the roles of its special tokens."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers

from flaxmill.data.tokenizer.failures import is_panic
from flaxmill.data.tokenizer.reading import READABLE, TOKENIZER_NAMES, find_tokenizer, read_tokenizer
from flaxmill.data.tokenizer.roles import (
    Frame,
    Roles,
    find_roles,
    find_unknown_id,
    roles_by_spelling,
    template_frame,
)
from flaxmill.data.tokenizer.settings import (
    ROLES,
    SETTINGS_FILES,
    TokenizerSettings,
    find_chat_template,
    read_settings,
)
from flaxmill.data.tokenizer.trials import try_reading

_VERY_LONG = 1_000_000
# An embedding has as many rows: this many rows of width 1,024 are 64 GB.
_LARGEST_ID = 2**24
# Keys of a settings file about another place, or no longer true of the tokenizer that is written.
_NOT_KEPT = {"name_or_path", "tokenizer_file", "special_tokens_map_file", "init_inputs", "vocab_file"}


class Tokenizer:
    """A tokenizers.Tokenizer with the ids that data needs.

    roles: ids of special tokens by role (bos, eos, unk, sep, pad, cls, mask), as far as it has them.
    settings: what transformers' tokenizer_config.json says of it.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        settings: TokenizerSettings | None = None,
        roles: Roles | None = None,
    ):
        """Without `roles`, they are as the settings have them."""
        self.inner = inner
        # Text that spells "<|endoftext|>" must not end a document; `as_markup` is for texts that may.
        inner.encode_special_tokens = True
        inner.no_padding()
        inner.no_truncation()
        self._files = settings or TokenizerSettings()
        self.roles = find_roles(inner, self._files) if roles is None else roles
        self.pad_id = self.roles.get("pad")
        self.mask_id = self.roles.get("mask")
        self.cls_id = self.roles.get("cls")
        self.sep_id = self.roles.get("sep")
        self.end_id = self.roles.get("eos")

    def encode(self, text: str, *, markup: bool = False) -> list[int]:
        """Ids of the text alone, without special tokens around it; see `reader` for `markup`."""
        return self.reader(markup).encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], *, markup: bool = False) -> list[list[int]]:
        """As encode, on all cores."""
        encodings = self.reader(markup).encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], skip_specials: bool = True) -> str:
        """Text of the ids; special tokens are left out or spelled."""
        return self.inner.decode([int(id_) for id_ in ids], skip_special_tokens=skip_specials)

    def reader(self, markup: bool) -> tokenizers.Tokenizer:
        """The tokenizer that reads texts; do not change it.

        Args:
          markup: read a special token that a text spells as that token, as transformers' AutoTokenizer does;
            else it is text like any other, which is right for a corpus that nobody has checked.
        """
        return self._marked_up if markup and not self.settings.get("split_special_tokens") else self.inner

    @cached_property
    def _marked_up(self) -> tokenizers.Tokenizer:
        copy = tokenizers.Tokenizer.from_str(self.to_json())
        copy.encode_special_tokens = False
        return copy

    @property
    def unknown_settings(self) -> list[str]:
        """Unknown keys of the tokenizer_config.json beside its file: a newer feature, or a typo."""
        return self._files.unknown_keys

    @property
    def max_length(self) -> int | None:
        """The longest text that its settings allow; None if not stated, or transformers' "very long"."""
        stated = self.settings.get("model_max_length", self.settings.get("max_len"))
        return stated if isinstance(stated, int) and 0 < stated < _VERY_LONG else None

    @property
    def gives_segments(self) -> bool:
        """Whether a model is told which text of a pair a token belongs to."""
        names = self.settings.get("model_input_names")
        return not isinstance(names, list) or "token_type_ids" in names or not names

    @property
    def truncation_side(self) -> Literal["left", "right"]:
        """Where a text that is too long for its row loses tokens."""
        return "left" if self.settings.get("truncation_side") == "left" else "right"

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: what an embedding needs before padding."""
        return self._largest_id + 1

    @cached_property
    def _largest_id(self) -> int:
        return max(self.inner.get_vocab(with_added_tokens=True).values())

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are never text: they are not masked and not counted."""
        added = self.inner.get_added_tokens_decoder()
        special = {id_ for id_, token in added.items() if token.special}
        named = (self.pad_id, self.mask_id, self.cls_id, self.sep_id, self.end_id)
        return frozenset(special | {id_ for id_ in named if id_ is not None})

    @cached_property
    def unknown_id(self) -> int | None:
        """The id that its model gives to text that it has no piece for; None where it has none."""
        return find_unknown_id(self.inner)

    @cached_property
    def added_names(self) -> frozenset[str]:
        """The spellings of its special tokens."""
        return frozenset(
            token.content for token in self.inner.get_added_tokens_decoder().values() if token.special
        )

    def spells_special(self, text: str) -> bool:
        """Whether a text holds the spelling of a special token."""
        return self._special_spellings is not None and self._special_spellings.search(text) is not None

    @cached_property
    def _special_spellings(self) -> re.Pattern[str] | None:
        added = self.inner.get_added_tokens_decoder().values()
        spellings = [re.escape(token.content) for token in added if token.special]
        return re.compile("|".join(spellings)) if spellings else None

    @cached_property
    def template(self) -> Frame:
        """The ids that its own template puts before and after a text."""
        return template_frame(self.inner)

    @property
    def is_bert_like(self) -> bool:
        """Whether texts go between [CLS] and [SEP], if the tokenizer's template does not say."""
        return self.cls_id is not None and self.sep_id is not None and not self._is_causal

    @property
    def _is_causal(self) -> bool:
        return self.end_id is not None and self.end_id != self.sep_id

    @property
    def closing_id(self) -> int | None:
        """The id that ends a text: the template's last token, or [SEP] where texts go between [CLS] and
        [SEP], else the end token."""
        if self.template.after:
            return self.template.after[-1]
        return self.sep_id if self.is_bert_like else self.end_id

    def to_json(self) -> str:
        """The tokenizer.json of the Hugging Face ecosystem."""
        return self.inner.to_str()

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the tokenizer_config.json beside its file says."""
        return self._files.values

    @property
    def chat_template(self) -> str | None:
        """The template, in Jinja, by which it writes conversations as one text; None: it has none."""
        return find_chat_template(self.settings)

    def with_settings(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """The same tokenizer, with these keys in its tokenizer_config.json as well."""
        files = self._files._replace(values=self._files.values | dict(settings))
        return Tokenizer(self.inner, files, self.roles)

    def settings_with_roles(self) -> dict[str, Any]:
        """Content for a tokenizer_config.json: `settings`, and the spelling of every role."""
        kept = {key: value for key, value in self.settings.items() if key not in _NOT_KEPT}
        # A null takes away a role that the class has by default and this tokenizer has not.
        absent = {f"{role}_token": None for role in self._files.named_tokens}
        spelled = {
            f"{role}_token": self.inner.id_to_token(self.roles[role]) for role in ROLES if role in self.roles
        }
        return {"tokenizer_class": "PreTrainedTokenizerFast"} | kept | absent | spelled

    @property
    def roles_spelled_otherwise(self) -> list[str]:
        """Roles with a token in the settings that the vocabulary lacks; transformers would add the token."""
        named = self._files.named_tokens
        return [role for role in self.roles if role in named and self.inner.token_to_id(named[role]) is None]

    def save(self, path: str | os.PathLike) -> None:
        """Writes tokenizer.json."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def save_settings(self, path: str | os.PathLike) -> None:
        """Writes tokenizer_config.json."""
        text = json.dumps(self.settings_with_roles(), indent=2, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls, path: str | os.PathLike, *, by_spelling: bool = False, is_trusted: bool = False
    ) -> "Tokenizer":
        """Reads a tokenizer.json, vocab.txt, vocab.json with merges.txt or SentencePiece model, or the
        directory that holds one, with the settings beside it.

        Args:
          by_spelling: tell the roles of special tokens by their spelling alone, as version 0.1.0 did.
          is_trusted: the file was written from a tokenizer that has been read before.

        Raises ValueError where it is none of these.
        """
        path = Path(path)
        file = find_tokenizer(path) if path.is_dir() else path
        if file is None or not file.is_file():
            raise ValueError(
                f"data.tokenizer={str(path)!r} is not a {'tokenizer' if path.is_dir() else 'file'}; use bpe, "
                f"wordpiece, unigram, bytes, or the path of {READABLE}"
            )
        settings = read_settings(file.parent)
        beside = tuple(file.with_name(name) for name in (*TOKENIZER_NAMES, "merges.txt", *SETTINGS_FILES))
        try:
            if not is_trusted and (reason := try_reading("flaxmill.data.tokenizer.trial", file, beside)):
                raise ValueError(reason)
            inner = read_tokenizer(file, settings)
            _check_ids(inner)
            return cls(inner, settings, roles_by_spelling(inner) if by_spelling else None)
        except BaseException as error:
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"data.tokenizer={str(file)!r} cannot be read ({reason}); give {READABLE}"
            ) from None


def _check_ids(inner: tokenizers.Tokenizer) -> None:
    """Raises ValueError unless a model's embedding can have the ids, each for one token."""
    tokens = inner.get_vocab(with_added_tokens=True)
    if not inner.get_vocab_size():
        raise ValueError("its vocabulary is empty")
    token_of = {id_: token for token, id_ in tokens.items()}
    if len(token_of) < len(tokens):  # a written tokenizer would have only one of them
        token, id_ = next((token, id_) for token, id_ in tokens.items() if token_of[id_] != token)
        raise ValueError(f"{token!r:.40} and {token_of[id_]!r:.40} have the same id, {id_}")
    if (largest := max(token_of)) > _LARGEST_ID:
        raise ValueError(f"it has the id {largest}, for which no model has an embedding")


def canonical_json(tokenizer: Tokenizer) -> str:
    """What a fingerprint hashes: a text equal for equal tokenizers, whatever the order of their file's keys.

    The roles that rows are made with are added only where they differ from what the spellings tell, so that
    digests of version 0.1.0 hold.
    """
    text = json.dumps(json.loads(tokenizer.to_json()), sort_keys=True, ensure_ascii=False)
    ids = _ids_in_rows(tokenizer)
    spelled = Tokenizer(tokenizer.inner, roles=roles_by_spelling(tokenizer.inner))
    return text if ids == _ids_in_rows(spelled) else text + json.dumps(ids)


def _ids_in_rows(tokenizer: Tokenizer) -> list[int | None]:
    before = tokenizer.cls_id if tokenizer.is_bert_like else None
    return [before, tokenizer.closing_id, tokenizer.mask_id]


def special_lookup(tokenizer: Tokenizer) -> np.ndarray:
    """A bool for each id: whether it is special."""
    lookup = np.zeros(tokenizer.vocab_size, bool)
    lookup[list(tokenizer.special_ids)] = True
    return lookup
