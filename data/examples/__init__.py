"""Turns labelled examples into rows of tokens, for fine-tuning.

example                 one example: its texts and its answer, checked
reading                 the files of examples, one after another
embedded_rows           the examples inside the running Python
embedded_conversations  the conversations inside the running Python, as text
corpus                  examples as a stream with splits and labels
framing                 the tokens before, between and after a row's texts
encoded_rows            lists of unequal lengths as one array
labelled_rows           one text or a pair, with a label or a number
tagged_rows             sentences with a tag for each word
answer_rows             questions, and windows over their contexts
match_rows       two texts that belong together, a row for both
preference_rows         prompts with two answers each
target_rows             sources and targets of sequence to sequence
"""
