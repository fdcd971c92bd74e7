"""Where arrays live: the mesh, the logical-axis rules, placement of batches.

mesh       how many devices each kind of parallelism gets
rules      which mesh axis splits which logical axis: read this first
placement  host rows as global arrays

hardware/   accelerators that are planned for
processes/  many processes as one job
"""
