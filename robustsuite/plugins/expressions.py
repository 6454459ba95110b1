"""`NAME` or `NAME(key=value, …)` as the command line and `rs.attack` read it: literals only, nothing is evaluated."""

from __future__ import annotations

import ast
import re
from typing import Any, Final

from robustsuite.core.errors import RequestError

_CALL: Final = re.compile(r"\s*(?P<name>[A-Za-z0-9_][A-Za-z0-9_.:+-]*)\s*(?:\((?P<arguments>.*)\))?\s*", re.DOTALL)
_LONGEST: Final = 2000  # characters; deeper nesting than fits in them exhausts no stack


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Read a plug-in's name and its options.

    Values are numbers, quotients such as 8/255, text in quotes, True, False, None, and lists, tuples and mappings of
    those. Nothing is evaluated: a name or a call as a value is refused.

    Args:
        text: `pgd`, `pgd(steps=40, step_size=0.1)` or `art:HopSkipJump(max_iter=10)`.

    Returns:
        The name and the options.

    Raises:
        RequestError: The text is no such expression.

    Example:
        >>> parse_call("pgd(steps=40, step_size=1/8)")
        ('pgd', {'steps': 40, 'step_size': 0.125})
    """
    match = _CALL.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise _refused(text, "write NAME or NAME(key=value, …)")
    try:
        call = ast.parse(f"call({match['arguments'] or ''})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(text, f"{getattr(error, 'msg', error)}; write NAME(key=value, …)") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise _refused(text, "write one call with nothing after it")
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise _refused(text, "name every option: key=value")
    names = [str(keyword.arg) for keyword in call.keywords]
    if len(set(names)) < len(names):
        raise _refused(text, "give each option once")
    try:
        return match["name"], {str(keyword.arg): _literal(keyword.value, text) for keyword in call.keywords}
    except RecursionError:
        raise _refused(text, "nest less deeply") from None


def _literal(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None))):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _number(node.operand, text)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        bottom = _number(node.right, text)
        if bottom == 0:
            raise _refused(text, "divide by something other than 0")
        return _number(node.left, text) / bottom
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item, text) for item in node.elts]
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        keys = [str(key.value) for key in node.keys if isinstance(key, ast.Constant)]
        return dict(zip(keys, (_literal(item, text) for item in node.values), strict=True))
    if isinstance(node, ast.Name):
        raise _refused(text, f"put text in quotes: '{node.id}'")
    raise _refused(
        text, "values are numbers, quotients such as 8/255, quoted text, True, False, None, lists and mappings"
    )


def _number(node: ast.expr, text: str) -> int | float:
    value = _literal(node, text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refused(text, "only numbers take a sign or stand in a quotient")
    return value


def _refused(text: str, remedy: str) -> RequestError:
    shown = text if len(text) <= 120 else text[:119] + "…"
    return RequestError(f"expected a plug-in with its options, got {shown!r}; {remedy}")
