"""`flaxmill plan`: what a run takes on devices that are not here.

compiled_step   the train step as the real compilers make it: read this first
abstract_batch  the batch of a step, as shapes
hlo_text        a compiled program, read from its text
replica_groups  which devices take part in a collective
collectives     what is sent, how often, and along which axes of the mesh
memory          what a device holds, by kind
findings        collectives that the design does not want
analytic        memory, wires and seconds of a step by shapes and formulas
activations     what the backward pass keeps, as JAX itself says
weights         the state and the weights as devices hold them
design          the collectives that the step is designed to run
roofline        what devices send for a collective, and the least time of a step
proposals       what would make it fit
search          meshes and remat policies, ranked
cost            days and device-hours of the whole run; two published runs beside their ceilings
assemble        a compiled step and the formulas, put together to a plan
report          all of it as text
json_report     the same as JSON
html_report     the same as one page
effects         what single settings would change
"""
