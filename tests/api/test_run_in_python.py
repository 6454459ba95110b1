"""`rs.run` on a suite, from Python."""

import pytest

import robustsuite as rs

SUITE = """
name: from-python
dataset: {name: digits, train: 400, test: 100}
model: {name: mlp, hidden: [16]}
training: {epochs: 2, lr: 5.0e-3, batch_size: 64}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
attacks: [fgsm]
"""


def test_runs_goes_on_and_reads_back(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE)
    out = tmp_path / "run"
    report = rs.run(tmp_path / "suite.yaml", out=out, overrides=["dataset.test=80", "attacks=[fgsm, noise]"])
    assert [r.attack for r in report.records] == ["none", "fgsm", "noise"]
    assert report.records[1].metrics["robust_accuracy"].n == 80
    assert (out / "report.html").is_file()
    again = rs.run(out / "suite.yaml", out=out)
    assert [r.seconds for r in again.records] == [r.seconds for r in report.records], "nothing was played again"
    assert rs.Report.load(out).table().equals(report.table())


def test_a_wrong_suite_starts_nothing(tmp_path):
    (tmp_path / "suite.yaml").write_text(SUITE.replace("fgsm", "fgssm"))
    with pytest.raises(rs.RequestError, match="did you mean"):
        rs.run(tmp_path / "suite.yaml", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
