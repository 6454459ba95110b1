"""Panels: the built-in ones, a stranger's in a file, and what a hostile one can do to the page: nothing."""

import re
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from robustsuite import report
from robustsuite.cli.app import app
from robustsuite.core.errors import RequestError
from robustsuite.core.payloads import KINDS
from robustsuite.plugins import registry
from robustsuite.plugins.plugin_rules import PluginError
from robustsuite.report.files import write
from robustsuite.report.pieces import Fold, Grid, Section, Strip, sections
from robustsuite.scenarios import SCENARIOS

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"
#: What the template itself writes.
PLAIN = {
    "h2", "h4", "p", "div", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "figure", "figcaption",
    "ul", "li", "svg", "g", "line", "path", "small", "text", "title",
}  # fmt: skip
HEAD = """\
from dataclasses import dataclass
from markupsafe import Markup
from robustsuite.core import Cost
from robustsuite.plugins import register
from robustsuite.report import Axis, Charts, Fold, Grid, Point, Section, Series, Strip, draw

@register.panel("stranger")
@dataclass(frozen=True, kw_only=True)
class Stranger:
    \"\"\"What a stranger draws.\"\"\"

    asks = Cost

    def __call__(self, exhibits):
"""
HONEST = """\
rows = tuple((e.record.defense, e.record.attack, str(e.payload.counts["forwards"])) for e in exhibits)
points = tuple(Point(i, e.payload.counts["forwards"], label=e.record.attack) for i, e in enumerate(exhibits))
most = max(point.y for point in points) + 1
chart = draw("forwards", Axis("cell", 0, len(points)), Axis("passes", 0, most), [Series("all", points, 0)])
parts = ("As counted.", Grid(("defence", "attack", "n"), rows), Charts((chart,)))
return Section("Forward passes", "Of every cell.", parts)
"""


class Tags(HTMLParser):
    """Every tag with its attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(autouse=True)
def _own_panels(monkeypatch):
    registry.discover()
    monkeypatch.setattr(registry.panels, "_entries", dict(registry.panels._entries))


@pytest.fixture
def strange(tmp_path):
    """Load a panel of which only the body of the call is given."""

    def load(body, head=HEAD):
        path = tmp_path / "panel.py"
        path.write_text(head + textwrap.indent(textwrap.dedent(body), "        "))
        registry.load_file(path)
        return path

    return load


def page_of(maker):
    write(maker.folder, formats=("html",))
    return (maker.folder / "report.html").read_text()


def without(html):
    """The page but for the stranger's section."""
    html = re.sub(r'<section id="panel-stranger">.*?</section>', "", html, flags=re.S)
    return re.sub(r'<a href="#panel-stranger">.*?</a>', "", html)


def section(html, name="stranger"):
    found = re.search(rf'<section id="panel-{name}">(.*?)</section>', html, re.S)
    return found and found.group(1)


def test_a_strangers_panel_in_a_file_shows_in_the_report_of_a_run(strange, tmp_path):
    path, suite = strange(HONEST), tmp_path / "s.yaml"
    registry.panels._entries.pop("stranger")
    suite.write_text(
        "name: s\ndataset: {name: digits, train: 100, test: 50}\nmodel: logistic\ntraining: {epochs: 1}\n"
        "threat: {norm: linf, radius: 0.1, curve: []}\nattacks: [noise]\n"
    )
    given = ["run", str(suite), "--out", str(tmp_path / "run"), "--plugin", str(path), "--fresh"]
    given += ["--workers", "1"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    html = (tmp_path / "run" / "report.html").read_text()
    drawn = Tags(section(html))
    assert [tag for tag, _ in drawn.tags].count("tr") == 3
    assert "As counted." in drawn.text
    assert ("figure", {"class": "chart"}) in drawn.tags
    assert '<a href="#panel-stranger">Forward passes</a>' in html


def test_a_panel_without_exhibits_is_not_asked(strange, maker):
    strange("raise AssertionError")
    maker.add("none", "x", "evasion", status="error", message="m")
    assert section(page_of(maker)) is None


@pytest.mark.parametrize(
    "body",
    [
        'return Section("<script>alert(1)</script>")',
        'return Section(Markup("<script>alert(1)</script>"), Markup("<script>"), (Markup("<img src=x onerror=a>"),))',
        'return Section("h", parts=(Grid((Markup("<script>"),), ((Markup("<script>alert(1)</script>"),),)),))',
        'return Section("h", parts=(Fold(Markup("<script>"), Markup("<script>")),), link=Markup("<script>a"))',
        """
        point = Point(1, 1, label=Markup("<script>alert(1)</script>"))
        y = Axis("'\\"><script>", 0, 1)
        chart = draw(Markup("<script>"), Axis("x", 0, 1), y, [Series('"><script>', (point,), 0)])
        return Section("h", parts=(Charts((chart,), (('"><script>', 0), (Markup("<script>"), 1))),))
        """,
        'return Section("h", parts=tuple(e.record.attack for e in exhibits))',
    ],
)
def test_a_hostile_panel_writes_no_markup(strange, maker, body):
    before_maker(maker)
    whole = page_of(maker)
    strange(body)
    html = page_of(maker)
    drawn = section(html)
    assert drawn is not None
    assert "could not be drawn" not in html
    assert {tag for tag, _ in Tags(drawn).tags} <= PLAIN
    assert not [name for _, given in Tags(html).tags for name in given if name.startswith("on")]
    assert "49" not in drawn, "nor is text from records a template"
    assert without(html).split() == whole.split(), "all else is as it was"


def before_maker(maker):
    ok = torch.ones(20, dtype=torch.bool)
    maker.utility(EVIL, ok)
    maker.evasion(EVIL, EVIL, ok, ~ok, images=False)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('no <b> here')", "ValueError: no &lt;b&gt; here"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("class Odd(Exception):\n    def __str__(self): raise OSError\nraise Odd", "Odd"),
        ("return '<b>raw</b>'", "expected a Section, several, or None"),
        ("return 5", "expected a Section, several, or None"),
        ("return [Section('h'), None]", "expected a Section, several, or None"),
        ("return Section('h', parts='text')", "expected a list of text, Grids, Charts and Folds"),
        ("return Section('h', parts=(5,))", "expected a list of text, Grids, Charts and Folds"),
        ("return Section('h', parts=(Charts((object(),)),))", "expected text, numbers and pieces of a section"),
        ("return Section('h', parts=(Charts(5),))", "TypeError"),
        ("return Section('h', parts=(Charts(('no chart',)),))", "could not be drawn"),
        ("return Section('h', parts=(Grid((), 7),))", "could not be drawn"),
        ("return Section(lambda: 3)", "expected text, numbers and pieces of a section"),
        ("own = []\nown.append(own)\nreturn Section('h', parts=(Grid((), own),))", "RecursionError"),
        ("return Section('h', parts=(Fold('f', strips=(Strip('s', (('r', ('http://e.x/a',)),)),)),))", "images.png"),
        ("return Section('h', parts=(Charts((draw('t', Axis('x', 1, 1), Axis('y', 0, 1), "
         "[Series('s', (Point(1, 1),), 0)]),)),))", "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_panel_that_fails_is_a_line_of_the_report(strange, maker, body, words):
    before_maker(maker)
    whole = page_of(maker)
    strange(body)
    html = page_of(maker)
    assert words in section(html)
    assert "could not be drawn" in section(html)
    assert without(html).split() == whole.split(), "all else is as it was"


def test_a_panel_that_writes_to_what_it_is_given_changes_nothing(strange, maker):
    before_maker(maker)
    whole = page_of(maker)
    strange(
        """
        for exhibit in exhibits:
            exhibit.record.metrics.clear()
            exhibit.record.cost["forwards"] = 7
            exhibit.record.attack_parameters["x"] = "y"
            object.__setattr__(exhibit.record, "attack", "other")
            exhibit.payload.counts.clear()
        exhibits.clear()
        """
    )
    assert page_of(maker).split() == whole.split()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("asks = Cost", "asks = int", "expected a kind of payload (Scores, Images, Sweep, History, Cost), got asks="),
        ("    asks = Cost\n", "", "got asks=None"),
        ("asks = Cost", "asks = Cost\n    order = 'last'", "a whole number, got order='last'"),
        ("(self, exhibits)", "(self)", "expected def __call__(self, exhibits)"),
        ('    """What a stranger draws."""\n', "", "a docstring"),
        ('"stranger"', '"gallery"', "expected one panel called 'gallery'"),
    ],
)
def test_what_is_no_panel_is_refused_with_file_and_line(strange, old, new, words):
    with pytest.raises(PluginError, match=re.escape(words)):
        strange("return None", HEAD.replace(old, new))
    assert "stranger" not in registry.panels._entries


def test_the_page_names_no_panel_and_panels_name_no_scenario():
    """The pattern: the name of a game as text, or a decision by a record's game."""
    folder = Path(report.__file__).parent
    files = {path.name: path.read_text() for path in (folder / "panels").glob("*.py")}
    assert {"gallery.py", "passes.py", "roc.py", "sweeps.py", "training.py"} <= set(files)
    for name, text in files.items():
        assert not re.search(r"scenario\s*(==|!=|in\b|not in\b)", text), name
        assert not re.search("|".join(rf"[\"']{game}[\"']" for game in SCENARIOS), text), name
    page = (folder / "page.py").read_text() + (folder / "report.html.j2").read_text()
    for entry in registry.panels.all():
        assert not re.search(rf"panel-{entry.name}|[#\"]{entry.name}\"[> ]|{entry.cls.__name__}\b", page), entry.name
    assert set(re.findall(r"from robustsuite\.report\.panels import (.*)", page)) == {"charts"}


def test_every_kind_has_a_panel():
    assert {entry.cls.asks for entry in registry.panels.all()} == set(KINDS.values())


def test_sections_are_made_of_plain_text_again():
    class Loud(str):
        def __html__(self):
            return "<b>"

    (made,) = sections(Section(Loud("h"), parts=[Loud("p"), Grid([Loud("a")], [[Loud("b"), 3]])]))
    assert type(made.heading) is type(made.parts[0]) is type(made.parts[1].rows[0][0]) is str
    assert made.parts[1].rows == (("b", 3),)
    assert sections(None) == ()


@pytest.mark.parametrize("source", ["http://e.x/a.png", "data:text/html,x", 'data:image/png;base64,AA"onerror=a'])
def test_a_strip_holds_images_only(source):
    strip = Strip("s", (("r", (source,)),))
    with pytest.raises(RequestError, match=r"images\.png"):
        sections(Section("h", parts=(Fold("f", strips=(strip,)),)))
