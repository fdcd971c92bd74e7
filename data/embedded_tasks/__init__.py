"""Labelled examples for every task, made from the running Python's own source.

tasks        the tasks: read this first
definitions  functions, methods and classes as their sources define them
docstrings   docstrings, and the text that their first lines sum up
areas        which area of the library a module belongs to
expressions  expressions, each with its outermost construct
notations    arithmetic in infix and in reverse Polish
questions    questions about a function's source, with their answers
roles        lines of source as words with their roles
chats        a conversation about a definition
statements   statements about a function, true or false
"""
