import base64
import hashlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
from html import escape
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch
from PIL import Image

from robustsuite.core.errors import RequestError
from robustsuite.core.metric import Metric
from robustsuite.report.details import command
from robustsuite.report.files import write
from robustsuite.report.panels import charts, images
from robustsuite.report.report import Report

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
ALL = torch.ones(100, dtype=torch.bool)


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def html(run):
    write(run.folder, formats=("html",))
    return (run.folder / "report.html").read_text()


def test_writes_what_the_contract_lists(run):
    names = {path.name for path in write(run.folder)}
    parquet = {"results.parquet"} if importlib.util.find_spec("pyarrow") else set()
    assert names == {"results.csv", "table.md", "table.tex", "report.html", "junit.xml", "results.sarif"} | parquet
    assert not list(run.folder.glob(".*"))


def test_same_records_same_bytes(run):
    first = {path: path.read_bytes() for path in write(run.folder)}
    second = {path: path.read_bytes() for path in write(Report(reversed(run.records), run.folder))}
    assert first == second


def test_csv_reads_back(run):
    write(run.folder, formats=("csv",))
    frame = pd.read_csv(run.folder / "results.csv")
    errors = frame[frame.status == "error"]
    assert len(errors) == 1
    assert errors.value.isna().all()
    assert frame.query("attack == 'worst-case' and defense == 'none' and radius == 0.3").value.iloc[0] == 0.0


def test_unknown_format_and_empty_folder_are_request_errors(run, tmp_path):
    with pytest.raises(RequestError, match="htm"):
        write(run.folder, formats=("htm",))
    with pytest.raises(RequestError, match="records"):
        write(tmp_path / "nothing")


def test_page_loads_nothing(html):
    page = Page(html)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert not re.search(r"https?://", html)
    assert "@import" not in html
    assert "url(" not in html


def test_policy_lets_only_the_own_script_and_style_act(html):
    policy = next(a["content"] for a in Page(html).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_page_says_what_happened(html):
    text = " ".join(Page(html).text.split())
    assert "Within linf radius 0.3" in text
    assert "adversarial-training has the highest robust accuracy: 77.0 % [70.7, 82.3] at 96.0 % clean accuracy" in text
    assert "the undefended model has 0.0 %" in text
    assert "52 of 55 cells (a defence under an attack at a radius) were measured" in text
    assert "were measured; 1 failed, 1 inconclusive, 1 not applicable" in text
    assert "The attack did not differentiate through the whole defence" in text
    assert 'raise ValueError("no <rows> left")' in text
    assert "robustsuite run" in text


def test_page_has_a_gallery_of_images_of_the_right_size(html):
    sources = [attributes["src"] for attributes in Page(html).all("img")]
    # 3 attacks x 5 defences x 3 rows of 8, one trigger strip of 2, and 4 of reconstructions of 2.
    assert len(sources) == 8 * (3 * 5 * 3 + 2 + 4 * 2)
    sizes = {Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2]))).size for s in sources}
    assert sizes == {(16, 16)}


def test_page_draws_success_against_radius(html):
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert [title for title in titles if not title.startswith("Robust accuracy")][:3] == ["verdict", "fgsm", "pgd"]
    assert "none: 100.0 % [98.2, 100.0] at radius 0.3, n = 200" in html
    assert "none: 2.0 % [0.5, 5.0] at radius 0, n = 200" in html


def test_everything_from_records_is_escaped(maker):
    clean = ALL.clone()
    named = {"suite": EVIL, "dataset": EVIL, "model": EVIL, "norm": EVIL, "knowledge": EVIL, "flags": (EVIL,)}
    maker.utility(EVIL, ALL, flags=(EVIL,))
    for attack in (EVIL, EVIL + "2"):
        for radius in (0.3, 0.1):
            parameters = {EVIL: EVIL}
            maker.evasion(
                EVIL, attack, clean, ~clean, radius=radius, message=EVIL, attack_parameters=parameters, **named
            )
    maker.add(EVIL, "x", EVIL, status="error", message=EVIL, environment={EVIL: EVIL}, metrics={})
    maker.add(EVIL, "y", EVIL, headline=EVIL, metrics={EVIL: Metric(1.0, unit=EVIL, better=EVIL)})
    (maker.folder / "suite.yaml").write_text(f"name: {json.dumps(EVIL)}")
    write(maker.folder)
    page = Page((maker.folder / "report.html").read_text())
    assert len(page.all("script")) == 1
    assert not [a for a in page.all("img") if not a["src"].startswith("data:")]
    assert not [a for _, a in page.tags if "onerror" in a]
    assert EVIL in page.text
    assert "<script>" not in (maker.folder / "table.md").read_text()


@pytest.mark.parametrize("kind", ["error", "utility", "vectors", "lost"])
def test_page_of_a_run_with_little_in_it(maker, kind):
    if kind == "error":
        maker.add("none", "pgd", "evasion", status="error", message="boom")
    elif kind == "utility":
        maker.utility("none", ALL)
    elif kind == "vectors":
        columns = {"clean": torch.rand(4, 20), "adversarial": torch.rand(4, 20), "id": torch.arange(4)}
        maker.add("none", "pgd", "evasion", columns, radius=0.1, norm="l2")
    else:
        maker.evasion("none", "pgd", ALL.clone(), ALL.clone())
        next((maker.folder / "samples").iterdir()).unlink()
    write(maker.folder)
    page = Page((maker.folder / "report.html").read_text())
    assert not page.all("img")
    assert "robustsuite run" in page.text


def test_command_can_be_pasted_and_names_no_machine(tmp_path, monkeypatch):
    assert shlex.split(command(tmp_path / "my run")) == [
        "robustsuite",
        "run",
        "my run/suite.yaml",
        "--out",
        "my run-again",
    ]
    monkeypatch.chdir(tmp_path)
    assert "runs/a/suite.yaml" in command(tmp_path / "runs" / "a")


def test_images_are_exact():
    ramp = torch.arange(16).reshape(1, 4, 4) / 15
    image = Image.open(io.BytesIO(base64.b64decode(images.png(ramp, (0.0, 1.0)).partition(",")[2])))
    assert list(image.tobytes()) == [17 * i for i in range(16)]
    colour = images.png(torch.stack([torch.ones(2, 2), torch.zeros(2, 2), torch.ones(2, 2)]), (0.0, 1.0))
    assert Image.open(io.BytesIO(base64.b64decode(colour.partition(",")[2]))).getpixel((0, 0)) == (255, 0, 255)


def test_change_is_clear_where_nothing_changed_and_full_at_the_largest():
    clean = torch.zeros(1, 2, 2)
    moved = torch.tensor([[[0.0, 0.3], [-0.3, 0.15]]])
    image = Image.open(io.BytesIO(base64.b64decode(images.difference(clean, moved, 0.3).partition(",")[2])))
    alpha = [image.getpixel(at)[3] for at in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert alpha == [0, 255, 255, 128]
    assert image.getpixel((1, 0))[0] > image.getpixel((1, 0))[2]
    assert image.getpixel((0, 1))[2] > image.getpixel((0, 1))[0]


def test_span_recognises_usual_bounds():
    assert images.span(torch.tensor([0.2, 0.4])) == (0.0, 1.0)
    assert images.span(torch.tensor([-0.2, 0.4])) == (-1.0, 1.0)
    assert images.span(torch.tensor([0.0, 200.0])) == (0.0, 255.0)
    assert images.span(torch.tensor([-3.0, 2.0])) == (-3.0, 2.0)


def test_axes_hold_their_values_and_have_round_ticks():
    axis = charts.axis("x", [0.0, 0.1, 0.3])
    assert [text for _, text in axis.ticks()] == ["0", "0.1", "0.2", "0.3"]
    wide = charts.axis("x", [0.5, 4000.0])
    assert wide.log
    assert [text for _, text in wide.ticks()] == ["1", "10", "100", "1,000"]
    single = charts.axis("x", [5.0])
    assert 0 <= single.place(5.0) <= 1
    assert charts.axis("x", [0.0]).place(0.0) == 0.0


def test_report_saves_and_loads_the_same(run, tmp_path):
    report = Report.load(run.folder)
    target = report.save(tmp_path / "copy")
    again = Report.load(target)
    assert again.records == report.records
    assert again.frame.equals(report.frame)
    assert (target / "suite.yaml").read_text() == (run.folder / "suite.yaml").read_text()
    assert (target / "report.html").is_file()
    assert again.save(target) == target


def test_report_refuses_a_folder_without_records_and_a_broken_sample_file(run, tmp_path):
    with pytest.raises(RequestError, match=r"records\.jsonl"):
        Report.load(tmp_path)
    next((run.folder / "samples").iterdir()).write_bytes(b"torn")
    with pytest.raises(RequestError, match="digest"):
        Report.load(run.folder).save(tmp_path / "copy")


def test_report_shows_itself(run):
    report = Report.load(run.folder)
    assert "77.0 [70.7, 82.3]" in repr(report)
    assert report.table().index[0] == "none"
    assert "<script>" not in Report(report.records)._repr_html_()
    assert len(report) == len(run.records)


def test_a_notebook_is_told_norm_radius_and_what_the_marks_mean(run):
    report = Report.load(run.folder)
    shown = report._repr_html_()
    assert "evasion attacks: linf ball of radius 0.3<" in shown
    assert "[…] 95 % confidence interval" in shown
    legend = report.comparison.legend()
    assert legend
    for flag, where in legend:
        assert escape(f"† {flag.code} ({where}): {flag.meaning}") in shown
    assert "best of its column" not in shown, "this table has no such mark"
    assert Report([])._repr_html_().count("<small>") == 0


def test_importing_the_report_imports_nothing_heavy():
    heavy = ["torch", "pandas", "scipy", "jinja2", "PIL", "rich"]
    modules = "sys, robustsuite.report.files, robustsuite.report.report"
    code = f"import {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
