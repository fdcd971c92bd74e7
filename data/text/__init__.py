"""Turns documents into rows of tokens, for pretraining.

corpora          files and tables of text as a stream of documents
embedded_corpus  the text inside the running Python: no file and no network needed
held_out         which documents are held out
overlap          training files that are held out as well
packing          documents end to end in rows, with their starts
fitted_packing   whole documents or sentences in padded rows
pairs            BERT's and ALBERT's sentence pairs
sentences        documents as sentences
entropy          the losses that counting alone reaches
"""
