"""Hardware that is planned for: what its makers say of it.

chips  peak arithmetic, memory and wires of a device, with their sources
"""
