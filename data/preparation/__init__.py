"""How a prepared dataset is made.

cache              finds a dataset in the cache, or has it made: read this first
making             makes a dataset of text or of labelled examples
means              what prepares a dataset: local processes, or Beam
beside             a process that makes it while this one compiles
publishing         locks, whole datasets and what can go wrong with a cache
cache_places       the name of a dataset, from all that decides its rows
text_building      a corpus becomes a dataset, in stages
text_corpus        the documents that the rows of a layout are made of
groups             neighbouring sources: what one machine reads in order
parts              neighbouring documents: what one worker encodes at once
encoding           documents become tokens
plan               which documents go where, and how many they are
planned_documents  documents read by their place in a split
row_units          the rows of one shard
contamination      held-out text in the training documents
beam               the stages on Apache Beam
workers            processes that work side by side
work_directory     what is done of an unfinished dataset
example_building   labelled examples become a dataset
finishing          shards get their names, and the manifest comes last
"""
