"""What commands share that print and write for a person.

streams        streams whose troubles do not end a command
shown_lines    lines in colour, where a terminal shows them
other_names    what fields are called in other trainers
output_places  places that a user names for what a command writes
completion     `flaxmill completion`: commands and flags, for a shell
"""
