"""Prepared datasets on disk: shards, tokenizer and manifest, whole or not there.

dataset        random access to a prepared dataset: read this first
layouts        the fields of a stored row
records        rows as bytes and back
shards         ArrayRecord shards, as TFDS names them
tfds_metadata  what TFDS wants to know of them
shard_reader   their rows in any order, for many threads
manifest       the manifest and its checks
lengths        histograms of lengths
checking       every shard compared with what was written
"""
