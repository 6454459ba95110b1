"""Check that a wheel holds every package of the project and nothing else at its top level."""

from __future__ import annotations

import sys
import tomllib
import zipfile
from pathlib import Path


def main(wheel: str) -> int:
    """Print what is wrong and return 1, or 0."""
    root = Path(__file__).resolve().parent.parent
    told = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    problems = [f"top level holds {name}" for name in top if name != "robustsuite" and not name.endswith(".dist-info")]
    problems += [f"{package} is missing" for package in told if package.replace(".", "/") + "/__init__.py" not in names]
    folders = {
        "robustsuite": root / "robustsuite",
        "robustsuite/attacks": root / "attacks",
        "robustsuite/defenses": root / "defenses",
    }
    for inside, folder in folders.items():
        for file in folder.rglob("*"):
            if file.suffix in (".py", ".yaml", ".j2", ".css", ".js", ".typed") and "__pycache__" not in file.parts:
                path = f"{inside}/{file.relative_to(folder).as_posix()}"
                if path not in names:
                    problems.append(f"{path} is missing")
    print("\n".join(problems) or f"{len(names)} files, all there")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
