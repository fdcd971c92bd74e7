"""`flaxmill doctor`: what may be wrong with a machine, its packages and its settings.

findings            a line of the report
requirements        requirements of packages, and whether versions fit them
versions            whether packages fit flaxmill and each other
tested_versions     the newest versions that the tests have passed with
launch_environment  what `flaxmill train` would start here
disk                whether runs and caches have a place
file_systems        what a file system is and can do
memory              what a run may have of the machine's memory
devices             what JAX computes on, what it leaves unused, and how fast that multiplies
device_probe        a process of its own that starts JAX
cache               sizes and damage of what is kept between runs
leak_test           whether attention lets a token see what it must not
attention_backends  every way to compute attention
"""
