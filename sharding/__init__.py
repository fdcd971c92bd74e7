"""Where arrays live: the mesh, the logical-axis rules, placement of batches.

mesh             how many devices each kind of parallelism gets
rules            which mesh axis splits which logical axis: read this first
local_rows       what a device does with its own rows: it gathers weights, and reduces gradients
local_tokens     what it does with its own tokens of rows that devices share
local_experts    what it does with its own experts, for rows of several devices
local_stages     what it does with its own layers, where others have the others
open_weights     weights that are whole already, and what a product does with a weight
mesh_shapes      sizes of a mesh that may serve, for so many devices
schedule         when the stages of a pipeline work, and how long they wait
collectives      what devices send each other along a mesh axis
placement        host rows as global arrays
given_arguments  scalars that programs are given over a whole run
memory           the devices' memory and the host's

hardware/   what programs are compiled for, here or absent
processes/  many processes as one job
"""
