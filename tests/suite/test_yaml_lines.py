"""Values as safe_load gives them, the line of every key, and texts that are refused."""

import pytest
import yaml

from robustsuite.core.errors import RequestError
from robustsuite.suite.yaml_lines import dump, parse

TEXT = """\
name: x            # 1
training:
  lr: 1.0e-3
  epochs: 5        # 4
attacks:
  - fgsm
  - pgd: {steps: 4,
      restarts: 2}
"""


def test_values_are_those_of_safe_load():
    assert parse(TEXT, "f").value == yaml.safe_load(TEXT)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 1),
        (("training", "epochs"), 4),
        (("attacks", 0), 6),
        (("attacks", 1), 7),
        (("attacks", 1, "pgd", "restarts"), 8),
        (("attacks", 1, "pgd", "nowhere", "at", "all"), 7),
        (("missing",), 1),
    ],
)
def test_lines(path, line):
    assert parse(TEXT, "f").line(path) == line


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", "0.001", ".001"])
def test_numbers_as_people_write_them(text):
    assert parse(f"lr: {text}", "f").value == {"lr": 0.001}


def test_dates_quotients_and_none_stay_text():
    values = parse("a: 2026-01-01\nb: 8/255\nc: none\nd: ~", "f").value
    assert values == {"a": "2026-01-01", "b": "8/255", "c": "none", "d": None}


def test_duplicate_keys_are_found_wherever_they_are():
    document = parse("a: 1\nb:\n  - {c: 1,\n     c: 2}\na: 3\n", "f")
    assert document.duplicates == ((("b", 0, "c"), 4), (("a",), 5))


def test_merged_mappings_are_no_duplicates():
    document = parse("base: &b {lr: 1}\nother:\n  <<: *b\n  lr: 2\n", "f")
    assert document.duplicates == ()
    assert document.value["other"] == {"lr": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2", r"f:2: .*expected ',' or '\]'"),
        ("a: 1\nb: !!python/object/apply:os.system ['echo']", "f:2: .*python/object/apply"),
        ("a: b: c", "f:1: "),
        ("\t- x", "f:1: "),
        ("a: \x00", "unacceptable character"),
        ("---\na: 1\n---\nb: 2", "f:3: .*another document"),
        ("&a [*a]", "f: expected YAML"),
        ("[" * 5000, "f: expected YAML"),
    ],
)
def test_refused_with_the_line(text, words):
    with pytest.raises(RequestError, match=words):
        parse(text, "f")


def test_an_alias_bomb_is_refused_quickly():
    rows = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(RequestError, match="aliases"):
        parse("\n".join(rows), "f")


@pytest.mark.parametrize(
    "value",
    [
        {"a": "1e-3", "b": 1e-5, "c": [0.001, float("inf")], "d": "2026-01-01", "e": "none", "f": None},
        {"g": 1e22, "h": "8/255", "i": True, "j": "yes", "k": "", "l": "a: b", "m": "näh", "n": "12:30", "o": "0x1F"},
        {"nested": [{"a": [1, [2, {"b": {}}]]}]},
    ],
)
def test_what_is_dumped_is_read_back(value):
    assert parse(dump(value), "f").value == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("10", 10),
        ("+10", 10),
        ("-10", -10),
        ("1_000", 1000),
        ("1_000_000", 1000000),
        ("0x1F", 31),
        ("0b101", 5),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("10:00", "10:00"),
        ("1:30:00", "1:30:00"),
        ("-1:30", "-1:30"),
        ("1:30.5", "1:30.5"),
        ("0x", "0x"),
        ("_1", "_1"),
        ("'010'", "010"),
        ('"1_000"', "1_000"),
        ("010.5", 10.5),
    ],
)
def test_integers_are_read_as_they_are_written(text, value):
    found = parse(f"a: 1\nb: {text}", "f").value["b"]
    assert found == value
    assert type(found) is type(value)
    assert parse(dump({"b": value}), "f").value == {"b": value}
    if isinstance(value, str):
        assert yaml.safe_load(dump({"b": value})) == {"b": value}, "other readers take it for text too"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("010", "10"),
        ("-010", "10"),
        ("08", "8"),
        ("007", "7"),
        ("00", "0"),
        ("0_10", "10"),
        ("1__0", "10"),
        ("1_", "1"),
    ],
)
def test_numbers_that_are_read_in_two_ways_are_refused_with_the_line(text, number):
    for document in (f"a: 1\nb: {text}", f"a:\n- {text}", f"a:\n  {text}: b"):
        with pytest.raises(
            RequestError, match=f"^f:2: expected a number .*, got {text}; write -?{number}, or quote it"
        ):
            parse(document, "f")
    assert parse(dump({"b": text, text: 1}), "f").value == {"b": text, text: 1}
