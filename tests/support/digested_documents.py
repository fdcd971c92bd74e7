"""Texts as parts of documents with digests, as preparation has them."""

import hashlib
import itertools

import numpy as np

from flaxmill.data.duplicates.exact import DigestPart


def part_of(documents):
    """A part of (text, is it held out)."""
    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint8) for text, _ in documents]
    return DigestPart(
        np.array(digests, np.uint8).reshape(-1, 16),
        np.array([is_held_out for _, is_held_out in documents], bool),
        np.array([not text for text, _ in documents], bool),
    )


def divide(documents, cuts):
    """Parts that begin at the cuts."""
    edges = [0, *cuts, len(documents)]
    return [part_of(documents[first:end]) for first, end in itertools.pairwise(edges)]
