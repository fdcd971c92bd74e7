"""What the benchmarks beside this room start: most of it the other sides of their ratios.

step_torch       PyTorch's steps, for step.py
step_products    the matrix products of a step alone, for step.py
mfu_torch        transformers' models, plain and compiled, for mfu.py
mfu_kernels      attention's kernels, for mfu.py
program_kernels  the kernels of a compiled program, for step_programs.py
"""
