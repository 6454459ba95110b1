import sys

import pytest

from robustsuite.core.errors import RequestError
from robustsuite.plugins.loading import call_factory, file_digest, load_factory

SOURCE = """
import helper_beside
calls = 0

class Nets:
    @staticmethod
    def small():
        return helper_beside.VALUE

def build(classes, *, width=4):
    return classes, width

number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "helper_beside.py").write_text("VALUE = 41")
    (tmp_path / "nets.py").write_text(SOURCE)
    yield str(tmp_path / "nets.py")
    sys.modules.pop("helper_beside", None)


def test_a_file_finds_its_neighbours_and_dotted_names(file):
    assert load_factory(f"{file}:Nets.small")() == 41


def test_an_unchanged_file_runs_once_and_an_edited_one_again(file, tmp_path):
    assert load_factory(f"{file}:build") is load_factory(f"{file}:build")
    (tmp_path / "nets.py").write_text("def build():\n    return 'new'\n")
    assert load_factory(f"{file}:build")() == "new"


def test_a_package_in_the_working_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_pkg_of_nets").mkdir()
    (tmp_path / "my_pkg_of_nets" / "nets.py").write_text("def build():\n    return 7\n")
    assert load_factory("my_pkg_of_nets.nets:build")() == 7


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("no_colon", "name both parts"),
        (":f", "name both parts"),
        ("nowhere.py:f", "there is no"),
        ("no_such_package.x:f", "ModuleNotFoundError"),
        ("math:sqr", "did you mean sqrt"),
        ("math:pi", "float"),
    ],
)
def test_targets_that_cannot_be_loaded(target, told):
    with pytest.raises(RequestError, match=told) as caught:
        load_factory(target)
    assert target in str(caught.value)


def test_a_file_whose_import_raises_is_named_with_the_reason(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(RequestError, match=r"broken\.py.*ZeroDivisionError"):
        load_factory(f"{tmp_path}/broken.py:f")


def test_a_factory_gets_what_it_names_and_nothing_else(file):
    build = load_factory(f"{file}:build")
    offered = {"classes": 10, "shape": (1, 8, 8)}
    assert call_factory("t", build, offered, {}) == (10, 4)
    assert call_factory("t", build, offered, {"width": 9, "classes": 3}) == (3, 9)
    with pytest.raises(RequestError, match=r"widht=9; did you mean 'width'"):
        call_factory("t", build, offered, {"widht": 9})
    with pytest.raises(RequestError, match=r"parameter 'number'.*classes, shape"):
        call_factory("t", lambda number: number, offered, {})
    assert call_factory("t", lambda **rest: rest, offered, {"a": 1}) == {"a": 1}


def test_file_digest_follows_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de"
    with pytest.raises(RequestError, match="there is no "):
        file_digest(tmp_path / "b")
