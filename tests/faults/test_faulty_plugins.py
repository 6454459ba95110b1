"""Plug-ins that raise, answer garbage, end their process, or never come back: each is named, and the others finish."""

import contextlib
import os
import resource
import shutil

import pytest
from fault_runs import log, play, records, table

from robustsuite.core.errors import RobustsuiteError
from robustsuite.results.gates import exit_code

RAISING = {
    "raise": "ValueError: as planned",
    "exit": "SystemExit: 3",
    "no-room": "OSError: [Errno 28] No space left on device: 'somewhere/else'",
    "memory": "MemoryError",
    "torch-memory": "can't allocate memory",
}
GARBAGE = {
    "nothing": "got artefact=NoneType",
    "text": "got artefact=str",
    "numpy": "got artefact=ndarray",
    "shape": ", 1, 8, 7)",
    "fewer": ", 1, 8, 8)",
    "integers": "torch.int64",
    "double": "torch.float64",
    "gradient": "requires_grad=True",
}
DEADLY = {
    "kill": "the worker was killed (SIGKILL); memory that ran out on this machine is the usual reason",
    "leave": "the worker ended with exit code 0 and without an answer",
    "segfault": "the worker was killed (SIGSEGV)",
    "leave-3": "the worker ended with exit code 3 and without an answer",
    "close-pipes": "the worker",  # which of the pipes it misses first is not said
}


def uses(*more, **kinds):
    """The `attacks` setting: these plug-ins, after two honest ones."""
    listed = [
        f"{{faulty: {{{option}: {value}, label: {value}, follow_up: false}}}}"
        for each in (kinds, *more)
        for option, values in each.items()
        for value in values
    ]
    return f"attacks=[noise, {{pgd: {{steps: 4, follow_up: false}}}}, {', '.join(listed)}]"


def by_attack(folder):
    return {record.attack: record for record in records(folder)}


def honest(rows):
    return [row[2:] for row in rows if row[3] in ("none", "noise", "pgd") and row[2] == "none"]


def last_line(record):
    return record.message.strip().splitlines()[-1]


def assert_named(folder, outcome, named):
    found = by_attack(folder)
    for name, said in named.items():
        assert found[name].status == "error", name
        assert said in found[name].message, name
        assert "Traceback" in found[name].message
    assert exit_code(outcome.records, ()) == 1


def test_what_raises_or_answers_garbage_is_an_error_that_says_what(tmp_path, straight):
    # Memory is exhausted only in worker processes: this one has threads of others, who would not survive it.
    here = {name: said for name, said in RAISING.items() if name != "memory"}
    options = [uses(does=here, answers=GARBAGE), "defenses=[none]"]
    outcome = play(tmp_path / "run", *options)
    assert_named(tmp_path / "run", outcome, {**here, **GARBAGE})
    assert outcome.errors == len(here) + len(GARBAGE)
    assert honest(table(tmp_path / "run")) == honest(straight)
    # What failed is tried again by the same command, and nothing else is.
    again = play(tmp_path / "run", *options, workers=1)
    assert (again.ran, again.reused) == (outcome.errors, 3)


def test_worker_processes_survive_it_all_or_are_replaced(tmp_path, straight, straight_run):
    """Also a Ctrl-C that nobody pressed, a death that does not come again, and one that does, with exit code 0."""
    told = []
    # Weights are at hand, and the last death leaves no work: else processes are started that show nothing more.
    shutil.copytree(straight_run / "models", tmp_path / "run" / "models")
    attacks = uses({"answers": GARBAGE}, {"does": ["leave"]}, does=[*RAISING, "interrupt", "kill-once"])
    outcome = play(tmp_path / "run", attacks, "defenses=[none]", workers=2, tell=told.append)
    assert_named(tmp_path / "run", outcome, {**RAISING, **GARBAGE})
    found = by_attack(tmp_path / "run")
    assert "KeyboardInterrupt" in last_line(found["interrupt"])
    assert found["kill-once"].status == "ok"
    assert DEADLY["leave"] in last_line(found["leave"])
    for place in (told, outcome.mishaps, log(tmp_path / "run").splitlines()):
        assert sum(f"none x kill-once: {DEADLY['kill']}" in line for line in place) == 1
        assert sum(f"none x leave: {DEADLY['leave']}" in line for line in place) == 2
        assert len(place) == 3
    assert outcome.errors == len(RAISING) + len(GARBAGE) + 2
    assert honest(table(tmp_path / "run")) == honest(straight)
    harmless = play(tmp_path / "again", uses(does=["kill-once"]), "defenses=[none]")
    once, never = (next(r for r in table(tmp_path / name) if r[3] == "kill-once") for name in ("run", "again"))
    assert once[2:] == never[2:]
    assert harmless.mishaps == ()


def test_out_of_memory_in_a_batch_halves_it(tmp_path):
    outcome = play(tmp_path / "run", uses(does=["nothing", "crowd"]), "defenses=[none]")
    found = by_attack(tmp_path / "run")
    assert outcome.errors == 0
    assert found["crowd"].metrics == found["nothing"].metrics
    assert "memory ran out, and batches were halved" in found["crowd"].message


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [1, 2])
def test_out_of_memory_on_the_gpu_is_an_error_and_the_others_finish(tmp_path, workers):
    options = [uses(does=["nothing", "gpu-memory", "gpu-crowd"]), "defenses=[none]"]
    outcome = play(tmp_path / "run", *options, device="cuda", workers=workers)
    found = by_attack(tmp_path / "run")
    assert "OutOfMemoryError" in last_line(found["gpu-memory"])
    assert found["gpu-crowd"].metrics == found["nothing"].metrics
    assert "memory ran out, and batches were halved" in found["gpu-crowd"].message
    assert {r.attack for r in outcome.records if r.status == "error"} == {"gpu-memory"}


def test_inputs_over_budget_or_not_finite_gain_nothing(tmp_path):
    play(tmp_path / "run", uses(answers=["fine", "nan", "over-budget"]), "defenses=[none]")
    found = by_attack(tmp_path / "run")
    for name in ("nan", "over-budget"):
        assert "over-budget" in found[name].flags
        assert found[name].metrics["robust_accuracy"] == found["fine"].metrics["robust_accuracy"]
    assert "non-finite" in found["nan"].flags


def test_poison_over_budget_is_refused_for_every_defence(tmp_path):
    wrong = {"over-budget": "at most 20 of 200", "none": "expected a Poison", "nan": "poison.x[0, 0, 0, 0]=nan"}
    listed = [f"{{faulty-poison: {{answers: {how}, fraction: 0.1, label: poison-{how}}}}}" for how in wrong]
    outcome = play(tmp_path / "run", f"attacks=[noise, {', '.join(listed)}]")
    for how, said in wrong.items():
        failed = [record for record in outcome.records if record.attack == f"poison-{how}"]
        assert [record.status for record in failed] == ["error", "error"], how
        assert all(said in record.message for record in failed), how
    assert outcome.errors == 6


def dies(tmp_path, straight, expected):
    told = []
    options = [uses(does=expected), "defenses=[none]"]
    outcome = play(tmp_path / "run", *options, workers=2, tell=told.append)
    found = by_attack(tmp_path / "run")
    for name, said in expected.items():
        assert found[name].status == "error", name
        assert said in last_line(found[name])
        # It had a second chance, and both losses are named: at once, in the outcome, and in the log.
        for place in (told, outcome.mishaps, log(tmp_path / "run").splitlines()):
            assert sum(f"none x {name}: the worker" in line for line in place) == 2
    assert outcome.errors == len(expected)
    assert honest(table(tmp_path / "run")) == honest(straight)


@pytest.mark.slow
def test_a_plug_in_that_crashes_its_process_each_time_is_named(tmp_path, straight):
    dies(tmp_path, straight, DEADLY)


def hangs(tmp_path, straight, straight_run, kinds, workers, timeout):
    told = []
    options = [uses(does=kinds), "defenses=[none]"]
    # With weights at hand no worker imports what trains, which takes longer than so short a limit where much goes on.
    shutil.copytree(straight_run / "models", tmp_path / "run" / "models")
    outcome = play(tmp_path / "run", *options, workers=workers, timeout=timeout, tell=told.append)
    found = by_attack(tmp_path / "run")
    for name in kinds:
        assert found[name].status == "error"
        assert f"it hung for {timeout:g} seconds" in last_line(found[name])
        (line,) = [line for line in told if f"none x {name}" in line]
        assert "\n" not in line
    assert outcome.errors == len(kinds)
    assert honest(table(tmp_path / "run")) == honest(straight)
    return found


def test_what_hangs_is_stopped_and_tells_where(tmp_path, straight, straight_run):
    """Asleep, and in C code that never gives the interpreter's lock back."""
    found = hangs(tmp_path, straight, straight_run, ["sleep", "hold"], workers=2, timeout=10)
    assert "fault_plugins.py, line" in last_line(found["sleep"]).replace('"', "")
    assert "in hold_the_interpreter" in found["hold"].message
    assert "in __call__" in found["sleep"].message


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_what_spins_or_is_stopped_from_outside_is_ended_too(tmp_path, straight, straight_run, workers):
    found = hangs(tmp_path, straight, straight_run, ["spin", "stop"], workers=workers, timeout=15)
    assert "in spin" in last_line(found["spin"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_training_that_hangs_costs_the_cells_that_need_it(tmp_path, straight, workers):
    options = ["defenses=[none, {stuck: {does: sleep}}]"]
    outcome = play(tmp_path / "run", *options, workers=workers, timeout=20)
    stuck = [record for record in outcome.records if record.defense == "stuck"]
    assert len(stuck) == 5
    assert all("it hung for 20 seconds" in last_line(record) for record in stuck)
    assert all("in __call__" in record.message for record in stuck)
    assert "training stuck: it hung for 20 seconds" in log(tmp_path / "run")
    kept = [row[2:4] + row[6:] for row in table(tmp_path / "run") if row[2] == "none"]
    assert kept == [row[2:4] + row[6:] for row in straight if row[2] == "none"]


@pytest.mark.slow
@pytest.mark.parametrize("does", ["kill", "memory"])
def test_a_training_that_is_killed_or_has_no_memory_costs_the_cells_that_need_it(tmp_path, does):
    outcome = play(tmp_path / "run", f"defenses=[none, {{stuck: {{does: {does}}}}}]", "attacks=[noise]", workers=2)
    assert [(r.defense, r.status) for r in outcome.records] == [
        *[("none", "ok")] * 2, *[("stuck", "error")] * 2,
    ]  # fmt: skip
    said = {"kill": "SIGKILL", "memory": "MemoryError"}[does]
    assert all(said in last_line(record) for record in outcome.records if record.defense == "stuck")


@pytest.mark.slow
def test_no_word_of_an_old_hang_is_held_against_a_new_death(tmp_path):
    """A trace that an earlier run left is no sign that this one hung."""
    folder = tmp_path / "run"
    options = [uses(does=["leave"]), "defenses=[none]"]
    from fault_runs import load

    from robustsuite.runner.plan import plan

    cell = next(cell for cell in plan(load(*options), "cpu").cells if cell.attack.label == "leave")
    (folder / ".hangs").mkdir(parents=True)
    (folder / ".hangs" / f"{cell.content}.txt").write_text("Thread 0x1: long ago")
    outcome = play(folder, *options, workers=1, timeout=100)
    assert "exit code 0" in last_line(by_attack(folder)["leave"])
    assert not any("hung" in what for what in outcome.mishaps)


@pytest.mark.slow
def test_an_answer_that_cannot_be_read_costs_its_cell(tmp_path, straight):
    outcome = play(tmp_path / "run", uses(does=["scribble"]), "defenses=[none]", workers=2)
    assert "the worker's answer could not be read (UnpicklingError" in last_line(
        by_attack(tmp_path / "run")["scribble"]
    )
    assert outcome.errors == 1
    assert honest(table(tmp_path / "run")) == honest(straight)


def test_no_room_for_a_process_is_said_and_the_same_command_goes_on(tmp_path, straight):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for handle in held[-4:]:  # for files that a run opens and closes
            os.close(handle)
        del held[-4:]
        with pytest.raises(RobustsuiteError, match="room for one more worker process, got Too many open files"):
            play(tmp_path / "run", workers=4)
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    play(tmp_path / "run")
    assert table(tmp_path / "run") == straight
