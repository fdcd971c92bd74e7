"""What a run takes on hardware that is not here.

analytic      memory, wires and seconds of a step by shapes and formulas: read this first
activations   what the backward pass keeps, as JAX itself says
weights       the state and the weights as devices hold them
design        the collectives that the step is designed to run
roofline      what a device sends for a collective, and the least time of a step
published     two measured runs beside their ceilings
proposals     what would make it fit
effects       what single settings would change
search        meshes and remat policies, ranked
assemble      a compiled step and the formulas as one plan
cost          tokens, days and device-hours of a whole run
report        a plan as text and as JSON
html_report   the same as one page
"""
