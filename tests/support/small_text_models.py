"""Small random models of transformers with tokenizers, as directories that read texts."""

import shutil
from pathlib import Path
from typing import Any

from small_tokenizers import directory_of, ours

from flaxmill.train.parity.small_models import SMALL

# Vectors and probabilities of texts then differ by far more than rounding does.
_STD = 0.3
_TOKENIZERS = {"bert": "bert", "roberta": "roberta", "gpt2": "gpt2", "llama": "llama", "t5": "t5"}


def save_model(directory: Path, name: str, architecture: str | None = None, **settings: Any) -> Any:
    """transformers' model SMALL[name], saved with a tokenizer of its kind.

    Args:
      architecture: another class of transformers.
      settings: fields of its config.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    small, kind = SMALL[name], _TOKENIZERS[name.partition("_")[0]]
    own = {"vocab_size": ours(kind).vocab_size} | ({"initializer_range": _STD} if kind != "t5" else {})
    config = getattr(transformers, small.config)(**{**small.settings, **own, **settings})
    model = getattr(transformers, architecture or small.architecture)(config).eval()
    model.save_pretrained(directory)
    shutil.copytree(directory_of(kind), directory, dirs_exist_ok=True)
    return model
