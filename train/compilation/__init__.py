"""Compiled programs: what a run compiles and when, and what a compiled step says of itself.

settings        what is settled before
programs        the functions that a run calls on its devices
ahead           a thread that compiles them before they are called
compiled_step   the train step as the compilers of absent hardware make it
abstract_batch  the batch of a step, as shapes
hlo_text        a compiled program, read from its text
replica_groups  which devices take part in a collective
collectives     what is sent, how often, and along which axes of the mesh
"""
