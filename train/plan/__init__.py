"""`flaxmill plan`: the train step, compiled for devices that are not here, and what that says of a run.

abstract_batch  the batch of a step, as shapes
compiled_step   the train step as the real compilers make it: read this first
hlo_text        a compiled program, read from its text
replica_groups  which devices take part in a collective
collectives     what is sent, how often, and along which axes of the mesh
padding         gathers that are done as sums of padded arrays
memory          what a device holds, by kind
findings        collectives that the design does not want
"""
