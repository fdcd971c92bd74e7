"""Vocabularies: trained on text, described and measured.

training     a dataset's tokenizer, loaded or trained
kinds        byte-level BPE, WordPiece and Unigram
unigram      the trainer of Unigram
lattice      every piece at every place of every word
sample       documents drawn from a stream
unknown      how much of a text a tokenizer has no pieces for, and what follows
pieces       the pieces of a text, with the bytes of a character together
description  a tokenizer as lines
measuring    tokenizers compared on documents
"""
