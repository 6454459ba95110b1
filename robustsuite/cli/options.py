"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also logs and warnings of the libraries below.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout: how it ended, gates, files; tables go to stderr.")
]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", metavar="FILE.py", help="Plug-in file to load; repeatable.")
]
Trusted = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="MODULE",
        help="Module or file whose functions the suite may name as factories; repeatable.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Set a key of the suite, the value in YAML; repeatable."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.", show_default="the suite's")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
