"""Experiments that learn vectors of texts.

embed       by a model of your own, on pairs of texts
embed_tiny  by a small BERT, on this Python's own documentation and source
"""
