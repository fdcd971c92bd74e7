"""A trained model in Python: what the commands do with it, on texts and rows in memory."""

# N texts, E dimensions of a vector

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flaxmill.data.files.local_paths import local_path
from flaxmill.model.fields import Head, TextPooling
from flaxmill.model.generation.config import GenerationConfig, WeightType
from flaxmill.model.huggingface.sentence_modules import SentenceModules, read_sentence_modules
from flaxmill.sharding.mesh import MeshConfig
from flaxmill.train.inference.embedding import Embedder, EmbeddingOptions, embed_texts, make_embedder
from flaxmill.train.inference.loaded_model import LoadedModel, load_model
from flaxmill.train.inference.packed_rows import BATCH_SIZE
from flaxmill.train.inference.predictions import Prediction
from flaxmill.train.inference.row_predictions import Row, predict_rows
from flaxmill.train.inference.scoring import Score, score_texts
from flaxmill.train.inference.text_generation import write_texts
from flaxmill.train.inference.text_model import TextModel, as_text_model


class Model:
    """A run's weights, its best checkpoint or else its newest, or a Hugging Face directory's.

    Programs are compiled at the first call and kept in the cache of compiled programs. `config` and `params`
    are what flaxmill.model.apply takes.
    """

    def __init__(self, loaded: LoadedModel, modules: SentenceModules) -> None:
        """See `load`."""
        self.config, self.params, self.tokenizer = loaded.config, loaded.params, loaded.tokenizer
        self._loaded, self._modules = loaded, modules
        self._embedders: dict[EmbeddingOptions, Embedder] = {}

    @classmethod
    def load(
        cls, directory: str | os.PathLike, *, head: Head | None = None, mesh: MeshConfig | None = None
    ) -> "Model":
        """Read a run, or a directory of Hugging Face or sentence-transformers.

        Args:
          head: read a Hugging Face directory with this head; "none" suffices to embed. None: the head that it
            names.
          mesh: devices to compute on; None: one.

        Raises:
          ValueError: it is neither, has no tokenizer, or one that does not fit the model.
        """
        modules = read_sentence_modules(local_path(os.fspath(directory), "directory"))
        return cls(load_model(modules.body, mesh, head=head), modules)

    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: TextPooling | None = None,
        normalize: bool | None = None,
        prompt: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> np.ndarray:
        """float32 [N,E]: a vector for each text, in order. Texts are cut to the model's length.

        Args:
          pooling: how a text's tokens become one vector; None: as the model's files say, or else their mean.
          normalize: divide each vector by its length; None: as the model's files say, or else not.
          prompt: what is put before each text; None: as the model's files say, or else nothing.
          batch_size: rows of 64 tokens that are computed together; short texts share a row.

        Raises:
          ValueError: the model is an encoder-decoder, or a text cannot be encoded.
        """
        options = EmbeddingOptions(pooling, normalize, prompt, batch_size)
        if options not in self._embedders:
            self._embedders[options] = make_embedder(self._loaded, self._modules, options)
        return embed_texts(self._embedders[options], texts).vectors

    def score(self, texts: Sequence[str], *, batch_size: int = BATCH_SIZE) -> list[Score]:
        """How likely each text is, in natural logarithms, token by token; see `score_texts`.

        Raises:
          ValueError: the model predicts no tokens of a text, or a text cannot be encoded.
        """
        return score_texts(self._loaded, texts, batch_size=batch_size).scores

    def generate(
        self,
        prompts: Sequence[str],
        *,
        stop: Sequence[str] = (),
        weights: WeightType | None = None,
        **decoding: Any,
    ) -> list[str]:
        """The new text alone for each prompt, in order; of an encoder-decoder the prompt is the source.

        Args:
          stop: a text ends before the first of these strings.
          weights: the type that a decoder's weights are kept in; None: the compute dtype.
          decoding: fields of GenerationConfig, such as max_new_tokens=20 and temperature=0; `num_samples` of
            more than 1 gives so many texts a prompt.

        Raises:
          ValueError: a prompt is empty or longer than the model, or the model does not generate.
        """
        options = GenerationConfig(**decoding)
        return write_texts(self._text_model, prompts, options, stop, weights).texts

    def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """The answer of a fine-tuned model for each row, in order: `value`, and in `details` what else is
        known of it, such as the probabilities of all labels.

        A value is a label, a list of labels or a number; a list with the tag of each word; the answer to a
        question; or a text.

        Args:
          rows: the columns that the model was trained on, {"text": ...} for most, by their names in its
            files; those with the answers may be absent. A string stands for the text column alone.

        Raises:
          ValueError: the model was not fine-tuned on labelled examples, or a row lacks a column.
        """
        return predict_rows(self._loaded, rows)

    @cached_property
    def _text_model(self) -> TextModel:
        return as_text_model(self._loaded)

    def __repr__(self) -> str:
        return f"Model.load({str(Path(self._modules.body))!r})"
