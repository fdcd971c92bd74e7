"""`flaxmill lm-eval`: what EleutherAI's lm-evaluation-harness asks of a model, answered by this package.

continuations   how likely tokens are after others
answers         texts written after others
language_model  the class that the harness calls
"""
