"""Prepared datasets on disk: shards, tokenizer and manifest, whole or not there.

preparation       finds a dataset in the cache, or makes it: read this first
cache_places      the name of a dataset, from all that decides its rows
text_building     a corpus through the tokenizer into shards
example_building  examples through the tokenizer into shards
finishing         names shards and writes the manifest last
lengths           histograms of lengths
layouts           the fields of a stored row
records           rows as bytes and back
shards            ArrayRecord shards, as TFDS names them
manifest          the manifest and its checks
checking          every shard compared with what was written
dataset           random access to a prepared dataset
"""
