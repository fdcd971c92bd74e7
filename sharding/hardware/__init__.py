"""What programs are compiled for: devices that are here, and devices that are not.

chips             peak arithmetic, memory and wires of a device, with their sources
topologies        absent devices by name, such as v5p:4x4x4 or h100:8x8
gpu_targets       what XLA must know of an absent GPU
host_memory       what a program may use of this machine's memory
compiler_options  what XLA is told beyond its defaults
"""
