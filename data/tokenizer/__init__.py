"""What a tokenizer's files say. `data/tokenization.py` has the Tokenizer itself.

reading         tokenizer.json, vocab.txt, vocab.json with merges.txt, SentencePiece
sentence_piece  a SentencePiece model that stands alone
settings        the files beside it, in transformers' order of precedence
roles           which token begins, ends, separates, pads or masks a text: the one place that knows
word_pieces     which tokens belong to one word
words           a text as the words that a tokenizer encodes one by one
word_memory     words that are encoded once and remembered
failures        texts that a tokenizer fails at, named with their place
trials          a first reading in a child process, where a crash does no harm
trial           the program of that child process
"""
