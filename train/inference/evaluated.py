"""A run as it stands after an evaluation, and the callbacks of a user's own that are given it."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from flaxmill.data.batches import Batches
from flaxmill.data.examples.corpus import read_examples
from flaxmill.data.examples.example import Example
from flaxmill.data.tokenization import Tokenizer
from flaxmill.model.huggingface.sentence_modules import SentenceModules
from flaxmill.model.params import Params
from flaxmill.sharding.processes.coordination import agree_on, texts_of_all
from flaxmill.train.experiment import Experiment
from flaxmill.train.failures import describe_error_in
from flaxmill.train.inference.loaded_model import LoadedModel
from flaxmill.train.inference.model import Model
from flaxmill.train.inference.predictions import Model as Predictor
from flaxmill.train.inference.predictions import Prediction, predict
from flaxmill.train.metrics.callbacks import Callback, CallbackError, callback_of
from flaxmill.train.metrics.progress import warn


class Evaluated:
    """What a callback is given. `params` are the run's own arrays: they are gone after the call."""

    def __init__(
        self,
        experiment: Experiment,
        params: Params,
        mesh: Mesh,
        tokenizer: Tokenizer,
        held_out: Batches,
        directory: Path,
        step: int,
        metrics: Mapping[str, Any],
    ) -> None:
        self.step = step
        """Updates of the weights so far."""
        self.metrics = dict(metrics)
        """What the evaluation and earlier callbacks have measured, by its names in metrics.jsonl."""
        self.directory = directory
        """The run's."""
        self.experiment = experiment
        """The run's, resolved: `experiment.model` is what flaxmill.model.apply takes beside `params`."""
        self.params, self.mesh, self.tokenizer = params, mesh, tokenizer
        self._held_out = held_out

    @cached_property
    def model(self) -> Model:
        """The weights as `Model` (docs/python.md), to generate, score, embed and predict with.

        Raises:
          ValueError: the job has several processes.
        """
        self._require_one_process("model")
        loaded = LoadedModel(
            self.directory, self.experiment.model, self.params, self.mesh, self.tokenizer, self.experiment
        )
        return Model(loaded, SentenceModules(self.directory))

    @cached_property
    def examples(self) -> list[Example]:
        """The held-out labelled examples, in order: `wanted` is the answer, `columns` the row of the file.

        Raises:
          ValueError: the objective learns from text.
        """
        if not self.experiment.definition.is_task:
            raise ValueError(
                f"objective={self.experiment.objective} has no examples; they are of labelled data"
            )
        return list(read_examples(self.experiment.data, self.experiment.objective, "valid"))

    @cached_property
    def predictions(self) -> list[Prediction]:
        """The answer for each of `examples`: `value`, and `details` such as probabilities.

        Raises:
          ValueError: the objective learns from text, or the job has several processes.
        """
        self._require_one_process("predictions")
        predictor = Predictor(self.experiment, self.params, self.mesh, self.tokenizer)
        return predict(predictor, self._held_out, self.examples)

    def _require_one_process(self, what: str) -> None:
        if jax.process_count() > 1:
            raise ValueError(
                f"{what} needs all weights in one process, and this job has {jax.process_count()}; compute "
                "with flaxmill.model.apply and params in all of them"
            )


def call_callbacks(evaluated: Evaluated) -> dict[str, float]:
    """Call the experiment's callbacks in order, in all processes; their numbers, `eval_` before the names.

    The numbers are process 0's, so that all processes go on alike.

    Raises:
      CallbackError: in all processes, if a callback failed in one.
    """
    found: dict[str, float] = {}
    for name in evaluated.experiment.callbacks:
        callback = callback_of(name)
        numbers, problem = {}, ""
        try:
            numbers = _numbers(callback, callback.function(evaluated))
        except Exception as error:
            problem = describe_error_in(callback.file, error)
            if jax.process_count() > 1:  # at once: the others may wait in a computation for this process
                warn(f"callback {name}: {problem}")
        if problem := next(filter(None, texts_of_all(problem)), ""):
            raise CallbackError(
                f"callback {name} after the evaluation of step {evaluated.step}: {problem}; mend it, or go "
                "on without it: --callbacks None"
            )
        numbers = json.loads(agree_on(json.dumps(numbers)))
        evaluated.metrics |= numbers
        found |= numbers
    return found


def _numbers(callback: Callback, returned: Mapping[str, Any] | None) -> dict[str, float]:
    """What the callback returned, if that is what it was defined with."""
    if not isinstance(returned, Mapping | None):
        raise TypeError(f"it returned {returned!r:.60}; return a dict of numbers, or nothing")
    returned = returned or {}
    if set(returned) != set(callback.metrics):
        wanted, given = (", ".join(map(str, names)) or "none" for names in (callback.metrics, returned))
        raise ValueError(f"it returned the metrics {given}, and was defined with {wanted}")
    numbers = {}
    for name, value in returned.items():
        number = value.item() if getattr(value, "ndim", None) == 0 else value  # of NumPy or JAX
        if not isinstance(number, int | float):
            raise TypeError(f"{name}={value!r:.60} is not a number")
        numbers[f"eval_{name}"] = float(number)
    return numbers
