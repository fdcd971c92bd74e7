"""Changes inputs so that a model has something to restore.

masking          which places are masked, and by what
span_corruption  T5's batches
"""
