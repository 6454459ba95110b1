"""What the checks look at, named on the command line; without any name, a small model of handwritten digits.

    pytest examples/checks --model my_package.nets:build --checkpoint weights.safetensors --data cifar10

Copy this file beside the checks that you take over.
"""

import hashlib
from pathlib import Path

import pytest

DEMO = Path(__file__).parent / "demo.py"


def pytest_addoption(parser):
    group = parser.getgroup("checks", "what the security checks look at")
    group.addoption("--model", default=f"{DEMO}:model", help="package.module:factory or file.py:factory of a network")
    group.addoption("--service", help="the same of what answers requests, where that is more than the network")
    group.addoption("--checkpoint", help="weights of the network, safetensors or a .pt without code")
    group.addoption("--checkpoint-digest", help="SHA-256 of that file, as it was released")
    group.addoption("--data", default="digits", help="a built-in data set, or file.py:factory of one")
    group.addoption("--samples", type=int, help="at most so many test samples, each class in its share")
    group.addoption("--run-folder", help="folder of the run that trained the network with differential privacy")
    group.addoption("--baseline", help="folder of a report that a later model must not fall behind")


@pytest.fixture(scope="session")
def data(pytestconfig):
    """Test samples."""
    return load(pytestconfig, "test", pytestconfig.getoption("--samples"))


@pytest.fixture(scope="session")
def train_data(pytestconfig):
    """What the network was trained on."""
    return load(pytestconfig, "train", None)


@pytest.fixture(scope="session")
def public_data(pytestconfig):
    """Such data that it was not trained on: for surrogates, and for a judge's own network."""
    from robustsuite.data.sources import joined

    return joined(*(load(pytestconfig, part, None) for part in ("adversary", "judge")))


def load(config, part, samples):
    import robustsuite as rs

    name = config.getoption("--data")
    settings = {"name": "factory", "factory": name} if ":" in name else {"name": name}
    return rs.load_data(part=part, samples=samples, **settings)


@pytest.fixture(scope="session")
def make(data):
    """A function that calls a factory, offering it `classes`, `shape` and `bounds`."""
    from robustsuite.plugins.loading import call_factory, load_factory

    offered = {"classes": data.classes, "shape": data.shape, "bounds": data.bounds}
    return lambda target: call_factory(target, load_factory(target), offered, {})


@pytest.fixture(scope="session")
def model(pytestconfig, make):
    """The network, from raw inputs to logits, with its weights."""
    from robustsuite.models.checkpoint import load_into

    network = make(pytestconfig.getoption("--model"))
    if pytestconfig.getoption("--checkpoint"):
        load_into(network, pytestconfig.getoption("--checkpoint"))
    return network.eval()


@pytest.fixture(scope="session")
def service(pytestconfig, make, request):
    """What answers requests: `logits` and `rejected` for a batch; the demo's, or the network where nothing is named."""
    from robustsuite.core import Deployed, Served

    demo = pytestconfig.getoption("--model") == f"{DEMO}:model"
    target = pytestconfig.getoption("--service") or (f"{DEMO}:service" if demo else None)
    made = make(target) if target else request.getfixturevalue("model")
    return made if isinstance(made, Deployed) else Served(made)


@pytest.fixture
def require(request):
    """Hold a report against gates such as `worst-case:robust_accuracy>=0.4`; keep it where reports are asked for."""
    from robustsuite.core import Gate
    from robustsuite.results import Outcome, judge

    def hold(report, *gates):
        __tracebackhide__ = True
        folder = request.config.getoption("--robustsuite-report")
        if folder:
            name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]
            report.save(Path(folder) / f"{request.node.name}-{name}")
        for verdict in judge([Gate.parse(gate) for gate in gates], report):
            request.node.user_properties.append(("robustsuite_measured", verdict.message))
            assert verdict.outcome is Outcome.PASSED, verdict.message

    return hold


@pytest.fixture
def require_rate(request):
    """Hold the share of true outcomes `(N,)` against a floor or a ceiling, with its 95 % interval."""
    from robustsuite.core.intervals import rate
    from robustsuite.results import Outcome, decide

    def hold(outcomes, name, *, at_least=None, at_most=None):
        __tracebackhide__ = True
        metric = rate(outcomes, "higher" if at_most is None else "lower")
        verdict = decide(metric, at_least, at_most=at_most, name=name)
        request.node.user_properties.append(("robustsuite_measured", verdict.message))
        assert verdict.outcome is Outcome.PASSED, verdict.message

    return hold
