"""`flaxmill verify-resume`: a killed run ends where a straight one does.

proof        the runs and the comparisons, in order: read this first
trial        what was asked for, and the experiment of each process
shrink       a small experiment of the same kind
killed_runs  the processes: one left alone, one killed, one that continues
comparison   whether two runs are the same
report       the verdict as a table or as JSON
"""
