"""Many processes as one job: they start, watch over each other and stop together.

launch        how this process was started
rendezvous    how processes meet before JAX connects them
greetings     what they say to each other at the meeting
door          a port that withstands strangers
relay         a way to JAX's service that outlives it
processor     what a program for the CPU is made for: a kind of processor, and a number of threads
allocator     how a process keeps the memory that its programs work in
coordination  what processes agree on before and after the steps
watch         when one process dies or hangs, the others end soon too
stop_signal   SIGTERM and SIGINT as a flag
step_signals  when one process is told to stop or save, all do it after the same step
"""
