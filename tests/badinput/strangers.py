"""Suites that a stranger sends, what their code does, and the folders that they meet."""

import json

from typer.testing import CliRunner

from robustsuite.cli.app import app

SUITE = {
    "name": "strange",
    "dataset": {"name": "digits", "train": 60, "test": 20},
    "model": "logistic",
    "training": {"epochs": 1, "validation": 0.0},
    "threat": {"norm": "linf", "radius": 0.1, "curve_samples": 0},
    "attacks": ["noise"],
}
# Marks where its code runs, and does all that is asked of a factory or a plug-in.
CODE = """import os, subprocess
from subprocess import getoutput
from dataclasses import dataclass
from pathlib import Path
import torch
from robustsuite import register
Path(MARK).touch()

def build(classes, shape, **options):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[-1] * shape[-2], classes))

def data():
    return torch.rand(80, 1, 8, 8), torch.arange(80) % 10

@register.attack("NAME", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Still:
    \"\"\"Do nothing.\"\"\"

    def __call__(self, view, streams):
        return view.x.clone()
"""
TOUCH = "touch MARK"


def model(factory, **options):
    return {"model": {"factory": factory, **options}}


# What a stranger's suite says; it stands in `here`, beside links and modules that reach out of it, to `there`.
STRANGERS = {
    "a function of Python's": model("subprocess:getoutput", cmd=TOUCH),
    "a built-in function": model("posix:system", command=TOUCH),
    "a function of Python's, for data": {"dataset": {"factory": "subprocess:getoutput", "options": {"cmd": TOUCH}}},
    "a function of Python's, in a defence": {"defenses": [{"none": model("subprocess:getoutput", cmd=TOUCH)}]},
    "a file above": model("../there/evil.py:build"),
    "a file by its full path": model("THERE/evil.py:build"),
    "a file at home": model("~/evil.py:build"),
    "a link to a file": model("link.py:build"),
    "a link to a file, as a module": model("link:build"),
    "a package that is a link": model("linked.evil:build"),
    "a module behind a link": model("own.evil:build"),
    "a module on the path": model("evil:build"),
    "data of a file above": {"dataset": {"factory": "../there/evil.py:data"}},
    "a surrogate": {"attacks": [{"transfer": {"surrogate": "../there/evil.py:build"}}]},
    "a training of a file above": {"training": {"factory": "../there/evil.py:build"}},
    "what a file of the user's imports": model("tools.py:getoutput", cmd=TOUCH),
    "what a module of the user's imports": model("tools:subprocess.getoutput", cmd=TOUCH),
    "what is built in, through a file": model("tools.py:os.system", command=TOUCH),
    "the suite's own functions": model("robustsuite.plugins.registry:load_file", path="THERE/evil.py"),
    "a plug-in above": {"plugins": ["../there/evil.py"], "attacks": ["NAME"]},
    "a plug-in at home": {"plugins": ["~/evil.py"], "attacks": ["NAME"]},
    "a plug-in behind a link": {"plugins": ["link.py"], "attacks": ["NAME"]},
}
# What `run` may run, since it lies in the working folder, and nothing else may.
OWN = {
    "a file": model("nets.py:build"),
    "a module": model("nets:build"),
    "data of a file": {"dataset": {"factory": "nets.py:data"}},
    "a surrogate": {"attacks": [{"transfer": {"surrogate": "nets.py:build"}}]},
    "a plug-in": {"plugins": ["nets.py"], "attacks": ["NAME", "noise"]},
    "a plug-in inside a defence": {
        "plugins": ["nets.py"],
        "defenses": ["none", {"adversarial-training": {"attack": {"NAME": {}}, "label": "own"}}],
        "gates": [{"defense": "own", "metric": "robust_accuracy", "at_least": 0.1}],
    },
}
_count = iter(range(10**6))


def written(values):
    """Each key on a line of its own."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


class Place:
    """The user's working folder `here`, a stranger's folder `there`, and a mark that the stranger's code leaves."""

    def __init__(self, root):
        self.here, self.there, self.mark = root / "here", root / "there", root / "mark"
        self.name = f"strange-{next(_count)}"
        for folder in (self.here, self.there, self.here / "own"):
            folder.mkdir(parents=True)
        code = CODE.replace("MARK", repr(str(self.mark))).replace("NAME", self.name)
        (self.there / "evil.py").write_text(code)
        (self.there / "__init__.py").write_text("")
        (self.here / "nets.py").write_text(code)
        (self.here / "tools.py").write_text("import os\nimport subprocess\nfrom subprocess import getoutput\n")
        (self.here / "own" / "__init__.py").write_text("")
        (self.here / "own" / "evil.py").symlink_to(self.there / "evil.py")
        (self.here / "link.py").symlink_to(self.there / "evil.py")
        (self.here / "linked").symlink_to(self.there)

    def write(self, said, folder="."):
        text = written({**SUITE, **said})
        for word, value in (("MARK", self.mark), ("THERE", self.there), ("NAME", self.name)):
            text = text.replace(word, str(value))
        (self.here / folder / "suite.yaml").write_text(text)

    def call(self, *arguments, code):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == code, done.output
        return done.output


def way_out(output):
    return "a suite is data" in output and ("--trust" in output or "--plugin" in output)
