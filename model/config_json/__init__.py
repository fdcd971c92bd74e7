"""Hugging Face's config.json, key by key.

files     reads the JSON files of a model's directory
settings  each key of a family: read, refused unless harmless, or without meaning
values    activations, token ids and kinds of layers, as many families have them
labels    the classes of a head, and the kind of problem they solve
rope      rotary positions, and how they are scaled
notes     keys that nothing is computed from
"""
