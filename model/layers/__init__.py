"""The parts of a layer, the embeddings before it, and what all of these share.

attention            softmax attention, and the choice of a kernel
visibility           who sees whom, as data
all_pairs            softmax over all pairs of tokens, and its gradient
blockwise_attention  without all pairs in memory, and around a ring of devices
fused_attention      cuDNN on GPU and splash on TPU
dense                the one matrix product
mlp                  the feed-forward half of a layer
moe                  experts in place of it
router               which experts a token goes to, and how evenly
expert_slots         tokens sorted by expert
expert_exchange      tokens and experts on different devices
norms                layer normalisation and RMS normalisation
tables               vectors by their ids: look-up, gathering and gradients
embeddings           tokens, learned positions and segments
positions            sinusoidal, rotary and relative positions
rotary_scaling       rotary positions for long contexts
dropout              dropout with a key for each row
lora                 low-rank products beside frozen matrices
initializers         the first values of weights, with their logical axes
dtypes               the dtype in which sums are accumulated
"""
