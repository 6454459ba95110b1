"""`NAME(key=value)` is read, never evaluated."""

import pytest

from robustsuite.core.errors import RequestError
from robustsuite.plugins.expressions import parse_call


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pgd", ("pgd", {})),
        ("pgd()", ("pgd", {})),
        (" pgd ( steps = 4 ) ", ("pgd", {"steps": 4})),
        ("model-inversion(lr=-0.5)", ("model-inversion", {"lr": -0.5})),
        ("art:HopSkipJump(max_iter=10)", ("art:HopSkipJump", {"max_iter": 10})),
        ("pgd(step_size=8/255, loss='margin')", ("pgd", {"step_size": 8 / 255, "loss": "margin"})),
        ("a(x=True, y=None, z=[1, 2.5], w=(1,))", ("a", {"x": True, "y": None, "z": [1, 2.5], "w": [1]})),
        ("a(d={'pgd': {'steps': 3}})", ("a", {"d": {"pgd": {"steps": 3}}})),
        ("a(s=')')", ("a", {"s": ")"})),
    ],
)
def test_read(text, expected):
    assert parse_call(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "pgd(__import__('os'))",
        "pgd(steps=__import__('os').system('true'))",
        "pgd(steps=open('x'))",
        "pgd(steps=(lambda: 1)())",
        "pgd(steps=[i for i in (1,)])",
        "pgd(steps=2**99999999)",
        "pgd(s='x' * 10)",
        "pgd(s=f'{1}')",
        "pgd(norm=l2)",
        "pgd(4)",
        "pgd(*[1])",
        "pgd(**{'steps': 1})",
        "pgd(a=1)(b=2)",
        "pgd(a=1) or pgd(b=1)",
        "pgd(a=1); pgd(b=1)",
        "pgd(a=1/0)",
        "pgd(a=True/2)",
        "pgd(a=1, a=2)",
        "pgd(a=b'x')",
        "pgd(a=...)",
        "pgd(",
        "pgd)",
        "",
        "pgd(a=" + "-" * 1900 + "1)",
        "pgd(a=" + "[" * 900 + "]" * 900 + ")",
        "pgd(a='" + "x" * 5000 + "')",
    ],
)
def test_refused(text):
    with pytest.raises(RequestError, match="expected a plug-in with its options"):
        parse_call(text)


def test_a_bare_word_is_told_to_be_quoted():
    with pytest.raises(RequestError, match="put text in quotes: 'l2'"):
        parse_call("pgd(norm=l2)")
