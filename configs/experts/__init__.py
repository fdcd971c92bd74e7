"""Models with experts.

moe_tiny       trains in minutes on a CPU
mixtral_8x7b   Mixtral 8x7B
qwen3_30b_a3b  Qwen3-30B-A3B
"""
