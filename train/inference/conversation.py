"""A conversation with a model: what has been said, as its chat template writes it, and the next answer."""

import dataclasses
from collections.abc import Generator

from flaxmill.data.conversations.messages import Message
from flaxmill.data.conversations.rendering import make_conversation_reader
from flaxmill.data.tokenizer.failures import encode_texts, half_character
from flaxmill.model.generation.config import MAX_SEED, GenerationConfig, WeightType
from flaxmill.train.inference.text_generation import make_generator, stream_text
from flaxmill.train.inference.text_model import TextModel
from flaxmill.train.run.token_ids import with_turn_end

# A conversation grows with each turn; with longer steps than one prompt's, few of its lengths compile.
_LENGTH_MULTIPLE = 128


class Conversation:
    """Messages that grow by a user's turn and the model's answer at a time.

    messages: what is kept, the system's message first.
    num_dropped: how many of the oldest messages the model no longer sees, as its context is full.
    """

    def __init__(
        self,
        model: TextModel,
        options: GenerationConfig,
        system: str = "",
        weights: WeightType | None = None,
    ) -> None:
        """Lays out the model's weights, which uses them up.

        Raises ValueError where the model generates no text or its tokenizer has no chat template, or where
        the template refuses a system's message.
        """
        config, tokenizer = model.config, model.tokenizer
        if config.head != "lm" or config.encoder_layers is not None:
            raise ValueError(
                "a conversation needs a causal model, which continues it, and this one "
                f"{'reads a source' if config.head == 'lm' else f'has model.head={config.head}'}; name "
                "another MODEL, or use flaxmill generate"
            )
        if tokenizer.chat_template is None:
            raise ValueError(
                "the model's tokenizer has no chat template, by which messages are written; put the "
                "chat_template.jinja of the model beside its tokenizer.json, or train it on conversations, "
                "which gives it one: flaxmill train chat --init-from MODEL --data.files FILE"
            )
        self._read = make_conversation_reader(tokenizer)
        self._system: list[Message] = [{"role": "system", "content": system}] if system else []
        self._check_beginning()
        ends = with_turn_end(model.decoding["end_ids"], tokenizer)
        self._model = model._replace(continues=False, decoding=model.decoding | {"end_ids": ends})
        self._options, self._num_answers = options, 0
        self._generator = make_generator(model, weights, frees=True, length_multiple=_LENGTH_MULTIPLE)
        self.reset()

    def _check_beginning(self) -> None:
        try:
            self._read([*self._system, {"role": "user", "content": "a"}])
        except ValueError as error:
            fix = "; leave out the system's message" if self._system else ""
            raise ValueError(f"no conversation can begin, as {error}{fix}") from None

    def reset(self) -> None:
        """Forget all but the system's message."""
        self.messages, self.num_dropped = [*self._system], 0

    def answer(self, said: str) -> Generator[str]:
        """The model's answer to the user's next turn, bit by bit; what was yielded is kept as its message,
        also where the reader stops early. Each answer is drawn with the next seed.

        Raises ValueError, and keeps nothing of it, where `said` cannot be read or is too long for the model.
        """
        if (place := half_character(said)) is not None:
            raise ValueError(f"the message is not UTF-8 at character {place}; give it as UTF-8")
        turns = [*self.messages[len(self._system) :], {"role": "user", "content": said}]
        prompt, num_dropped = self._fit(turns)
        self.num_dropped += num_dropped
        self.messages = [*self._system, *turns[num_dropped:]]
        written: list[str] = []
        try:
            for news in stream_text(self._model, self._generator, prompt, self._next_options(len(prompt))):
                written.append(news)
                yield news
        finally:
            self._num_answers += 1
            self.messages.append({"role": "assistant", "content": "".join(written)})

    def _fit(self, turns: list[Message]) -> tuple[list[int], int]:
        """The ids of the newest turns that leave room for an answer, and how many older ones do not fit."""
        limit, num_dropped = self._model.config.max_positions, 0
        while True:
            kept = [*self._system, *turns[num_dropped:]]
            (prompt,) = encode_texts(lambda some: [*map(self._read, some)], [kept], lambda _: "the message")
            is_last = num_dropped + 1 >= len(turns)
            if limit is None or len(prompt) <= limit - (1 if is_last else self._room(limit)):
                return prompt, num_dropped
            if is_last:
                raise ValueError(
                    f"the message makes a prompt of {len(prompt)} tokens, which leaves no room in "
                    f"model.max_positions={limit}; shorten it"
                )
            num_dropped += (
                2  # a question with its answer: templates refuse a conversation that begins with one
            )

    def _room(self, limit: int) -> int:
        """How many tokens are left for an answer before an older turn is kept."""
        return min(self._options.max_new_tokens, limit // 2)

    def _next_options(self, prompt_length: int) -> GenerationConfig:
        options, limit = self._options, self._model.config.max_positions
        most = options.max_new_tokens if limit is None else min(options.max_new_tokens, limit - prompt_length)
        seed = (options.seed + self._num_answers) % (MAX_SEED + 1)
        return dataclasses.replace(options, max_new_tokens=most, seed=seed)
