"""Changes inputs so that a model has something to restore.

masking          which places are masked, and by what
unit_choice      whole words, spans and n-grams to mask
span_corruption  T5's batches
infilling        fill-in-the-middle
"""
