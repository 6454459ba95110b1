"""`name(key=value, …)` as people type it: parsed, never evaluated."""

from __future__ import annotations

import ast
from typing import Any

from robustsuite import checks


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Split `NAME` or `NAME(key=value, …)` into a name and options; values are literals or quotients of numbers.

    Raises:
        RequestError: Anything else, such as a nested call or an unquoted word.

    Example:
        >>> parse_call("art:HopSkipJump(max_iter=10, eps=8/255)")[1]["max_iter"]
        10
    """
    name, bracket, rest = text.strip().partition("(")
    if not bracket:
        return name.strip(), {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
    except (SyntaxError, ValueError):
        raise _refuse(text) from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "f" or call.args:
        raise _refuse(text)
    options: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in options:
            raise _refuse(text)
        options[keyword.arg] = _literal(keyword.value, text)
    return name.strip(), options


def _literal(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        top, bottom = _literal(node.left, text), _literal(node.right, text)
        if isinstance(top, (int, float)) and isinstance(bottom, (int, float)) and bottom:
            return top / bottom
        raise _refuse(text)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        raise _refuse(text) from None


def _refuse(text: str) -> Exception:
    return checks.fail(
        "NAME or NAME(key=value, ...) with literal values", "attack", text, "write it like 'pgd(steps=40, step_size=0.1)'"
    )
