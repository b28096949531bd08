"""`mirnet doctor`: what this device lacks, and the command that installs it."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from mirnet_edge.cli.application import command

_INCOMPLETE = 2
_SIGNS = {"ok": "ok  ", "note": "note", "missing": "FIX "}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check CUDA, TensorRT, OpenCV, camera, memory, power mode and processor, and print the fix.

    Also lists what each extra of the package would add here.

    Exit code 2: something that this device needs is missing.
    """
    from mirnet_edge.doctor import examine

    findings = examine()
    if as_json:
        print(json.dumps([dataclasses.asdict(one) for one in findings], indent=1))
    else:
        for one in findings:
            print(f"{_SIGNS[one.state]} {one.subject}: {one.found}")
            if one.fix:
                print(f"       {one.fix}")
    if any(one.state == "missing" for one in findings):
        raise typer.Exit(_INCOMPLETE)


main = command(doctor, examples=("doctor", "doctor --json"))
