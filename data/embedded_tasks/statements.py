"""Statements about a function, each true or false by its syntax."""

import ast
from collections.abc import Callable

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def judge(function: ast.stmt) -> dict[str, bool]:
    """For each statement, whether it holds for the function."""
    assert isinstance(function, _Function)
    nodes = list(ast.walk(function))
    judged = {statement: any(map(holds, nodes)) for statement, holds in _OF_ANY_NODE.items()}
    arguments = function.args
    judged["It has a parameter with a default."] = any([*arguments.defaults, *arguments.kw_defaults])
    judged["It takes any number of arguments."] = bool(arguments.vararg or arguments.kwarg)
    return judged


def _is(*kinds: type[ast.AST]) -> Callable[[ast.AST], bool]:
    return lambda node: isinstance(node, kinds)


_OF_ANY_NODE: dict[str, Callable[[ast.AST], bool]] = {
    "It returns a value.": lambda node: isinstance(node, ast.Return) and node.value is not None,
    "It raises an exception.": _is(ast.Raise),
    "It handles exceptions.": _is(ast.ExceptHandler),
    "It repeats something.": _is(ast.For, ast.While, ast.AsyncFor),
    "It decides between two ways.": _is(ast.If, ast.IfExp),
    "It compares values.": _is(ast.Compare),
    "It calls a method.": lambda node: isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute),
    "It sets an attribute.": lambda node: isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store),
    "It takes an item out of something.": _is(ast.Subscript),
    "It calculates.": _is(ast.BinOp, ast.AugAssign),
}
