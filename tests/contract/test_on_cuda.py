"""On CUDA: networks of real users are judged as the plain one, and attacks come to the verdicts that they reach on CPU.

pytest -m gpu tests/contract/test_on_cuda.py
"""

import copy

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.ball import Ball, Threat
from robustsuite.core.deployed import Served
from robustsuite.plugins import registry
from robustsuite.scenarios import game
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.testing.awkward import awkward_laws
from robustsuite.testing.victims import tiny_network, tiny_samples

pytestmark = pytest.mark.gpu

SAMPLES = 40
RADII = {"linf": 0.1, "l2": 0.8, "l1": 3.0}
QUICK = {"square": {"queries": 100}, "hop-skip-jump": {"queries": 300}, "transfer": {"samples": 40, "epochs": 2}}
EVASION = [entry.name for entry in registry.attacks.all() if entry.scenario == "evasion"]


def robust(network, name, device):
    """Which samples withstand the attack, as bool `(n,)`."""
    entry = registry.attacks.get(name)
    threat = Threat(ball=Ball(entry.norms[0], RADII[entry.norms[0]]))
    victim = Victim(Served(network), tiny_samples(SAMPLES, first=10_000), device=device)
    scores = play(entry.make(QUICK.get(name, {})), game(entry, threat, {}), victim, seed=0)
    return scores.per_sample["robust"]


def on_cuda():
    return copy.deepcopy(tiny_network()).eval().to("cuda")


@pytest.mark.parametrize("law", awkward_laws(device="cuda"), ids=str)
def test_an_awkward_network_is_judged_as_the_plain_one(law):
    law()


@pytest.mark.parametrize("name", EVASION)
def test_verdicts_are_those_of_the_cpu(name):
    here, there = robust(tiny_network(), name, "cpu"), robust(on_cuda(), name, "cuda")
    # Roundings differ, and a sample on the edge may go the other way.
    assert (here != there).sum() <= SAMPLES // 20


class Graphed(nn.Module):
    """Replays a captured graph, which takes one batch size and answers in the same memory each time."""

    def __init__(self, inner, n):
        super().__init__()
        self.inner, self.given = inner, torch.zeros(n, 1, 8, 8, device="cuda")
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.no_grad():
            inner(self.given)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.out = inner(self.given)

    def forward(self, x):
        if len(x) != len(self.given):
            raise ValueError(f"captured for {len(self.given)} rows")
        self.given.copy_(x)
        self.graph.replay()
        return self.out


@pytest.mark.parametrize("name", ["hop-skip-jump", "square"])
def test_a_captured_graph_is_judged_as_the_network_in_it(name):
    assert torch.equal(robust(Graphed(on_cuda(), 32), name, "cuda"), robust(on_cuda(), name, "cuda"))


@pytest.mark.parametrize("name", ["hop-skip-jump", "square", "pgd"])
def test_a_compiled_network_that_reuses_its_memory_is_judged_as_the_plain_one(name):
    compiled = torch.compile(on_cuda(), mode="reduce-overhead")
    differ = robust(compiled, name, "cuda") != robust(on_cuda(), name, "cuda")
    assert differ.sum() <= SAMPLES // 20


def test_evaluate_takes_a_network_on_cuda_with_data_on_the_cpu():
    samples = tiny_samples(SAMPLES, first=10_000)
    report = rs.evaluate(on_cuda(), (samples.x, samples.y), attacks=["pgd"], threat=("linf", 0.1))
    assert [record.status for record in report.records] == ["ok", "ok"]
    moved = rs.perturb("pgd", on_cuda(), samples.x, samples.y, ball=("linf", 0.1))
    assert moved.device.type == "cpu"
    assert float((moved - samples.x).abs().max()) <= 0.1 + 1e-6
