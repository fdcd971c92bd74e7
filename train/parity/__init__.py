"""`flaxmill parity`: two sides and a comparison.

comparison     what is compared, and how close it must be: read this first
batches        random batches in all shapes of padding and packing
flaxmill_side  flaxmill's outputs, loss, gradients and steps
loss           the losses that are differentiated
torch_side     PyTorch's outputs, loss, gradients and steps
report         the result as a table or as JSON
progress       says on stderr what is compared now
small_models   small random models of every family
curves         small models trained twice, for docs/parity.md
"""
