"""Where arrays live: the mesh, the logical-axis rules, placement of batches.

mesh       how many devices each kind of parallelism gets
rules      which mesh axis splits which logical axis: read this first
placement  host rows as global arrays

hardware/   what programs are compiled for, here or absent
processes/  many processes as one job
"""
