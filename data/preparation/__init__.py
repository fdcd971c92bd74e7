"""How a prepared dataset is made.

cache             finds a dataset in the cache, or makes it: read this first
cache_places      the name of a dataset, from all that decides its rows
text_building     a corpus through the tokenizer into shards
example_building  examples through the tokenizer into shards
finishing         names shards and writes the manifest last
"""
