"""What is read: from text and labelled examples to the batch of a step. NumPy in and out; no JAX.

config              the settings of the data
source              a source of a mixture, as users write it
objectives          a row for each objective: what it reads
batches             the batch of a step: read this first
stored_rows         the stored rows of a batch, as the functions that make batches are given them
text_batches        batches of text, for each objective
example_batches     batches of labelled examples, for each task
draws               random draws without a generator: the same on every host and after every restart
special_tokens      which special tokens an objective needs, and which a decoder reads first
tokenization        the Tokenizer
show                a batch as text
show_examples       rows of labelled examples as text
card                a dataset described
card_page           a dataset as an HTML page with pictures
json_text           values as JSON
messages            pieces of error messages: "did you mean", "and 3 more"
whole_files         files that appear whole or not at all

conversations/   conversations as text, and as tokens that are predicted or not
text/            documents to rows of tokens
corruption/      inputs with masked, missing or moved parts
examples/        labelled examples to rows of tokens
embedded_tasks/  labelled examples from the running Python's own source
duplicates/      documents that equal another one, almost do, or hold its text
prepared/        datasets on disk
preparation/     how they are made
mixture/         several sources as one stream of rows
files/           files as rows and lines
tokenizer/       what a tokenizer's files say
vocabulary/      tokenizers trained on text, described and measured
"""
