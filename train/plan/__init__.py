"""`flaxmill plan`: what a run takes on devices that are not here.

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
auto_mesh       a mesh for the devices at hand
dry_run         `flaxmill train --dry-run`: what a run would be, on the devices at hand
compiled_plans  plans whose steps are compiled
assemble        a compiled step and the formulas, put together to a plan
report          all of it as text
json_report     the same as JSON
html_report     the same as one page
effects         what single settings would change
"""
