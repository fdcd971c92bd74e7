"""The documents that the rows of a layout are made of."""

from flaxmill.data.config import DataConfig, Layout
from flaxmill.data.examples.embedded_conversations import embedded_conversations
from flaxmill.data.files.sources import Log
from flaxmill.data.text.held_out import SplitCorpus, split_corpus


def find_text(config: DataConfig, layout: Layout, log: Log) -> SplitCorpus:
    """Text or conversations, from files or from inside the running Python.

    Raises ValueError as `split_corpus` does.
    """
    are_conversations = layout == "conversations"
    if are_conversations and not config.files:
        return embedded_conversations(config)
    takes_ids = layout == "packed" and config.packing != "full_sentences"
    return split_corpus(config, log, takes_ids=takes_ids, are_conversations=are_conversations)
