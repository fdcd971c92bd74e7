"""Generates token ids: greedily, by sampling, by beam search, or into an encoder's gaps.

generator     the Generator: read this first
config        how text is decoded
unrolled_model  the weights as decoding reads them
cached_model  the model that reads a prompt once, and then token by token
layer_cache   what a layer keeps of the tokens it has read
token_loop    the compiled loops
sampling      how the next token is chosen
beam_search   the likeliest whole texts
mask_filling  words for an encoder's gaps
"""
