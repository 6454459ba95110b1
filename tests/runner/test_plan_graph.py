"""The plan as a graph: what is shared is one node, whatever determines a result is in its key."""

from concurrent.futures import Future
from dataclasses import replace

import pytest

from robustsuite.models.build import ModelSpec
from robustsuite.models.checkpoint import save
from robustsuite.runner.estimate import Timings, duration
from robustsuite.runner.plan import plan
from robustsuite.runner.run import preview, run
from robustsuite.runner.schedule import LostError, Schedule
from robustsuite.runner.worker import Done
from robustsuite.suite.load import load_suite

SUITE = """
name: graph
dataset: {name: digits, train: 300, test: 60}
model: {name: logistic}
training: {epochs: 2, lr: 5.0e-3, batch_size: 32}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses:
  - none
  - none: {label: twin}
  - input-validation: {false_alarm_rate: 0.1}
  - none: {label: longer, training: {epochs: 3}}
attacks: [noise, {noise: {label: again}}, {badnets: {fraction: 0.1, size: 2}}, {model-inversion: {steps: 5}}]
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "graph.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def layout(suite):
    return plan(load_suite(suite), "cpu")


def told(cell):
    return cell.defense.label, cell.attack.label


def of_kind(layout, kind):
    return [node for node in layout.nodes if node.kind == kind]


def test_shared_work_is_one_node(layout):
    assert len(layout.cells) == 4 * 5
    # `none`, its twin and input validation, which only serves, are one training; `longer` is another.
    assert len(of_kind(layout, "training")) == 2
    assert len(of_kind(layout, "job")) == 1
    assert len(of_kind(layout, "artefact")) == 1
    # Input validation calibrates on a part of its own: the same training as the others'.
    assert len(of_kind(layout, "retraining")) == 2
    # Equal content under two labels is played once.
    assert len(of_kind(layout, "cell")) == len({cell.content for cell in layout.cells}) == 3 * 4
    assert len({cell.key for cell in layout.cells}) == len(layout.cells)


def test_every_node_stands_behind_what_it_needs(layout):
    seen = set()
    for node in layout.nodes:
        assert set(node.needs) <= seen
        seen.add(node.key)
    assert {cell.content for cell in layout.cells} <= seen


def test_within_holds_the_needs_and_nothing_else(layout):
    clean = next(cell for cell in layout.cells if cell.attack.label == "none")
    assert [node.kind for node in layout.within([clean])] == ["training", "cell"]
    poisoned = next(cell for cell in layout.cells if cell.attack.label == "badnets")
    assert [node.kind for node in layout.within([poisoned])] == ["training", "artefact", "retraining", "cell"]
    assert layout.within([]) == ()


@pytest.mark.parametrize(
    "change",
    [
        "seed=1", "threads=2", "training.epochs=5", "dataset.train=301", "dataset.test=61", "threat.radius=0.2",
        "model.name=mlp", "threat.norm=l2",
    ],
)  # fmt: skip
def test_a_change_of_what_determines_a_result_changes_its_key(suite, layout, change):
    other = plan(load_suite(suite, [change]), "cpu")
    before = {cell.content for cell in layout.cells if told(cell) == ("none", "noise")}
    after = {cell.content for cell in other.cells if told(cell) == ("none", "noise")}
    assert not before & after


def test_names_and_repeats_change_no_content(suite, layout):
    renamed = plan(load_suite(suite, ["name=other"]), "cpu")
    assert [cell.key for cell in renamed.cells] == [cell.key for cell in layout.cells]
    twice = plan(load_suite(suite, ["repeats=2"]), "cpu")
    assert {cell.content for cell in layout.cells} < {cell.content for cell in twice.cells}


def test_repeats_of_a_network_that_nobody_trains_are_played_from_seeds_of_their_own(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(ModelSpec("logistic")(10, (1, 8, 8), (0.0, 1.0)), "w.safetensors")
    given = ["model.checkpoint=w.safetensors", "training={}", "defenses=[none]", "attacks=[noise]", "repeats=2"]
    twice = plan(load_suite(suite, given), "cpu")
    assert [node.kind for node in twice.nodes] == ["cell"] * 4
    assert len({cell.content for cell in twice.cells}) == 4


def test_each_repeat_crafts_an_artefact_of_its_own(suite):
    twice = plan(load_suite(suite, ["repeats=2", "attacks=[{badnets: {fraction: 0.1, size: 2}}]"]), "cpu")
    assert len(of_kind(twice, "artefact")) == 2
    assert {len(cell.artefacts) for cell in twice.cells if told(cell)[1] == "badnets"} == {1}


def test_a_strangers_code_is_part_of_the_key(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    keys = []
    for text in (source, source, source + "# another version\n"):
        (tmp_path / "mine.py").write_text(text)
        changed = load_suite(suite, ["model={factory: 'mine.py:build'}", "defenses=[none]", "attacks=[noise]"])
        keys.append([cell.key for cell in plan(changed, "cpu").cells])
    assert keys[0] == keys[1] != keys[2]


def test_a_second_run_takes_everything_from_the_cache(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    loaded = load_suite(suite)
    first = run(loaded, tmp_path / "one")
    assert (first.ran, first.reused, first.recalled, first.errors) == (20, 0, 0, 0)
    told = preview(load_suite(suite, ["name=other"]), tmp_path / "two")
    assert (told.todo, told.recalled) == ((), 20)
    second = run(load_suite(suite, ["name=other"]), tmp_path / "two")
    assert (second.ran, second.reused, second.recalled) == (0, 0, 20)
    assert [replace(r, suite="", samples="") for r in second.records] == [
        replace(r, suite="", samples="") for r in first.records
    ]
    for record in second.records:
        if record.samples:
            assert (tmp_path / "two" / record.samples).read_bytes() == (tmp_path / "one" / record.samples).read_bytes()


def test_fresh_takes_nothing_from_the_cache(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    loaded = load_suite(suite, ["attacks=[noise]", "defenses=[none]"])
    run(loaded, tmp_path / "one")
    told = preview(loaded, tmp_path / "one", fresh=True)
    assert [node.kind for node in told.todo] == ["training", "cell", "cell"]
    again = run(loaded, tmp_path / "one", fresh=True)
    assert (again.ran, again.reused, again.recalled) == (2, 0, 0)


def test_a_preview_starts_nothing(suite, tmp_path):
    told = preview(load_suite(suite), tmp_path / "nothing", cached=False)
    assert not (tmp_path / "nothing").exists()
    assert "20 cells" in told.describe()
    assert "to do: 12 cells, 5 trainings, 1 artefact" in told.describe()


def test_an_estimate_learns_from_what_was_timed(layout, tmp_path):
    timings = Timings(layout, tmp_path)
    nodes = list(layout.nodes)
    assert str(timings.forecast(nodes, 1)) == "nothing like it was timed here yet"
    for node in nodes:
        timings.observe(node, 4.0 if node.kind == "training" else 1.0)
    timings.save()
    later = Timings(layout, tmp_path).forecast(nodes, 1)
    trainings = sum(node.kind == "training" for node in nodes)
    assert later.unknown == 0
    assert later.seconds == pytest.approx(4.0 * trainings + (len(nodes) - trainings), rel=0.2)
    # Two slots halve it, but nothing is shorter than its longest part.
    assert Timings(layout, tmp_path).forecast(nodes, 2).seconds == pytest.approx(later.seconds / 2)
    assert Timings(layout, tmp_path).forecast(nodes, 1000).seconds == pytest.approx(4.0, rel=0.35)


def test_an_estimate_of_twice_the_samples_is_twice_as_long(suite, tmp_path):
    small, large = (plan(load_suite(suite, [f"dataset.test={n}"]), "cpu") for n in (60, 120))
    cells = [next(n for n in layout.nodes if n.kind == "cell") for layout in (small, large)]
    timings = Timings(small, tmp_path)
    timings.observe(cells[0], 3.0)
    timings.save()
    assert Timings(large, tmp_path).seconds(cells[1]) == pytest.approx(6.0)


def test_timings_that_are_torn_cost_only_the_estimate(layout, tmp_path):
    (tmp_path / "timings.json").write_text('{"a": ')
    timings = Timings(layout, tmp_path)
    assert timings.forecast(layout.nodes, 1).known == 0
    timings.observe(layout.nodes[0], 1.0)
    timings.save()
    assert duration(59.6) == "60 s"


class Scripted:
    """An engine that answers from a script."""

    slots = 3

    def __init__(self, answers):
        self.answers, self.started = answers, []

    def submit(self, node):
        self.started.append(node.key)
        answer = self.answers.get(node.kind, Done())
        answer = answer.pop(0) if isinstance(answer, list) and answer else answer
        future = Future()
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer if isinstance(answer, Done) else Done())
        return future

    def close(self, *, at_once):
        pass


def played(layout, answers):
    engine, mishaps = Scripted(answers), []
    run = Schedule(layout.nodes, engine, lambda note: None, mishaps.append).run()
    return engine, mishaps, {node.key: (node, result) for node, result in run}


def test_a_worker_that_dies_once_is_given_a_second_chance(layout):
    engine, mishaps, done = played(layout, {"artefact": [LostError("the worker was killed"), Done()]})
    assert set(done) == {node.key for node in layout.nodes}
    assert not any(result.failure for _, result in done.values())
    assert len(engine.started) == len(layout.nodes) + 1
    assert mishaps == ["crafting badnets: the worker was killed"]


def test_what_needs_a_failure_fails_for_its_reason_and_is_not_started(layout):
    engine, mishaps, done = played(layout, {"artefact": LostError("out of memory")})
    failed = {node.kind: result.failure for node, result in done.values() if result.failure}
    assert failed == {"artefact": "out of memory", "retraining": "out of memory", "cell": "out of memory"}
    assert len(mishaps) == 2
    kinds = [next(n.kind for n in layout.nodes if n.key == key) for key in engine.started]
    assert kinds.count("artefact") == 2
    assert "retraining" not in kinds


def test_what_hung_is_not_tried_again(layout):
    engine, _, done = played(layout, {"artefact": LostError("it hung", again=False)})
    kinds = [next(n.kind for n in layout.nodes if n.key == key) for key in engine.started]
    assert kinds.count("artefact") == 1
    assert set(done) == {node.key for node in layout.nodes}


def test_parts_that_a_game_may_use_are_in_its_keys(suite):
    """The population may change where training and test samples stay: follow-ups and evaluators learn from it."""
    sizes = ["dataset.train=200", "dataset.test=60", "dataset.trusted=0", "dataset.calibration=100"]
    layouts = [plan(load_suite(suite, [*sizes, f"dataset.population=[{n}, 100]"]), "cpu") for n in (100, 120)]
    one, other = ({told(cell): cell.content for cell in layout.cells} for layout in layouts)
    same = {place for place in one if one[place] == other[place]}
    assert same == {place for place in one if place[1] in ("none", "badnets")}
