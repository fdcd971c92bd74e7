"""The class that the harness calls. It is made by a function: the harness need not be installed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flaxmill.model.generation.config import check_generates
from flaxmill.train.harness.answers import Request, write_answers
from flaxmill.train.harness.continuations import Continuation, longest_row, score_continuations
from flaxmill.train.inference.text_model import TextModel

if TYPE_CHECKING:
    from lm_eval.api.model import LM  # type: ignore[import-not-found]

NAME = "flaxmill"
"""What the harness calls such models."""


def check_answers(model: TextModel, source: str) -> None:
    """Raises ValueError for a model that does not continue texts."""
    check_generates(model.config)
    if not model.continues:
        raise ValueError(
            f"{source} answers texts of another form than it reads, and the harness compares continuations; "
            "export a causal run (flaxmill export), and give the exported directory"
        )


def make_language_model(model: TextModel, batch_size: int) -> "LM":
    """The model as the harness's TemplateLM.

    Args:
      batch_size: rows that are computed at a time.
    """
    from lm_eval.api.model import TemplateLM  # type: ignore[import-not-found]

    class FlaxmillLM(TemplateLM):
        """Answers from one process, whose devices share the work as the model's mesh says."""

        eot_token_id = property(lambda self: model.tokenizer.end_id)
        prefix_token_id = property(lambda self: first_token(model))
        max_length = property(lambda self: longest_row(model.config))

        def __init__(self) -> None:
            super().__init__()
            self.batch_size = batch_size

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return encode_text(model, string, with_specials=add_special_tokens is not False)

        def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            asked = [Continuation(context, tokens) for _, context, tokens in requests]
            scores = [
                (one.log_probability, one.is_greedy) for one in score_continuations(model, asked, batch_size)
            ]
            for (texts, _, _), score in zip(requests, scores, strict=True):
                self.cache_hook.add_partial("loglikelihood", texts, score)
            return scores

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            texts = [request.args for request in requests]
            totals = score_texts(model, [text for (text,) in texts], batch_size)
            for text, total in zip(texts, totals, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", text, total)
            return totals

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            asked = [Request(*request.args) for request in requests]
            answers = write_answers(model, asked, batch_size)
            for request, answer in zip(asked, answers, strict=True):
                self.cache_hook.add_partial("generate_until", tuple(request), answer)
            return answers

    return FlaxmillLM()


def register(model: "LM") -> None:
    """Let the harness find the model by its name; once in a process."""
    from lm_eval.api.registry import register_model  # type: ignore[import-not-found]

    class Named(type(model)):
        """The one that is there, whatever arguments the harness gives it."""

        def __new__(cls, *_: Any, **__: Any) -> Any:
            return model

        def __init__(self, *_: Any, **__: Any) -> None: ...

    register_model(NAME)(Named)


def encode_text(model: TextModel, text: str, *, with_specials: bool = True) -> list[int]:
    """Ids of a text, after what begins documents: not twice where the text itself spells that."""
    plain = model.tokenizer.encode(text, markup=True)
    if not with_specials:
        return plain
    whole = model.read(text)
    before = whole[: len(whole) - len(plain)]
    return plain if before and plain[: len(before)] == before else whole


def first_token(model: TextModel) -> int:
    """The id before a text that has no context: the first of a document, else the end of the one before."""
    found = model.tokenizer.roles.get("bos", model.tokenizer.end_id)
    if found is None:
        raise ValueError(
            "the tokenizer has no token that begins or ends a text, and a task has a text without context; "
            "name one in its tokenizer_config.json"
        )
    return found


def score_texts(model: TextModel, texts: Sequence[str], batch_size: int) -> list[float]:
    """The log-probability of each text, in windows of the model's length that do not overlap in what they
    predict."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # type: ignore[import-not-found]

    limit, windows, owners = longest_row(model.config), [], []
    for number, text in enumerate(texts):
        tokens = encode_text(model, text)
        rolling = get_rolling_token_windows(tokens, first_token(model), limit, context_len=1)
        for window in map(make_disjoint_window, rolling):
            windows.append(Continuation(*window))
            owners.append(number)
    totals = [0.0] * len(texts)
    for owner, score in zip(owners, score_continuations(model, windows, batch_size), strict=True):
        totals[owner] += score.log_probability
    return totals
