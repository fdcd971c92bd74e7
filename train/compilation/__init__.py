"""What a run compiles, and when.

programs  the functions that a run calls on its devices
ahead     a thread that compiles them before they are called
"""
