"""Arithmetic in two notations: infix with as few parentheses as its meaning needs, and reverse Polish."""

from collections.abc import Callable, Iterator

from flaxmill.data.draws import EMBEDDED_EXAMPLES, make_draw

_NUM_EXPRESSIONS = 24_000
_OPERANDS = "abcdefghij"
_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2}
_LEAST_OPERANDS, _MOST_OPERANDS = 3, 6

# A name, or an operator and its two sides.
Expression = str | tuple[str, "Expression", "Expression"]


def draw_notations() -> Iterator[tuple[str, str]]:
    """(infix, reverse Polish) of expressions that differ from one another; blanks separate the signs."""
    draw = make_draw(EMBEDDED_EXAMPLES, 1)
    seen: set[str] = set()
    while len(seen) < _NUM_EXPRESSIONS:
        operands = _LEAST_OPERANDS + draw() % (_MOST_OPERANDS - _LEAST_OPERANDS + 1)
        expression = _draw_expression(operands, draw)
        infix = to_infix(expression)
        if infix not in seen:
            seen.add(infix)
            yield infix, to_reverse_polish(expression)


def to_infix(expression: Expression) -> str:
    """`a - ( b - c ) * d`: operators of one strength associate to the left."""
    if isinstance(expression, str):
        return expression
    operator, left, right = expression
    before = _parenthesize(left, _strength(left) < _STRENGTH[operator])
    after = _parenthesize(right, _strength(right) <= _STRENGTH[operator])
    return f"{before} {operator} {after}"


def to_reverse_polish(expression: Expression) -> str:
    """`a b c - d * -`: each operator follows both its sides."""
    if isinstance(expression, str):
        return expression
    operator, left, right = expression
    return f"{to_reverse_polish(left)} {to_reverse_polish(right)} {operator}"


def _draw_expression(num_operands: int, draw: Callable[[], int]) -> Expression:
    if num_operands == 1:
        return _OPERANDS[draw() % len(_OPERANDS)]
    operator = "+-*/"[draw() % 4]
    on_left = 1 + draw() % (num_operands - 1)
    return operator, _draw_expression(on_left, draw), _draw_expression(num_operands - on_left, draw)


def _strength(expression: Expression) -> int:
    return 3 if isinstance(expression, str) else _STRENGTH[expression[0]]


def _parenthesize(expression: Expression, needed: bool) -> str:
    return f"( {to_infix(expression)} )" if needed else to_infix(expression)
