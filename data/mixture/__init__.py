"""Several named sources of text as one stream of rows, in exact proportions.

schedule        which source gives each row of the run, as a pure function of the row's number
preparation     a dataset for each source, all with one tokenizer: read this first
mixed_dataset   these datasets together
mixed_batches   the batch of a step, from the rows of all sources
"""
