"""`mirnet card`: a bundle as a folder for a model hub, and a comparison of a downloaded one."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from mirnet_edge.cli.application import command
from mirnet_edge.cli.arguments import BACKENDS_HELP
from mirnet_edge.errors import OptionError

if TYPE_CHECKING:
    from mirnet_edge.export.model_card import GoldenCheck

_DIFFERS = 3


def card(
    bundle: Annotated[
        str, typer.Argument(help="A bundle's folder, or shipped:NAME; with --check what was made.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to upload; a former one is replaced.")
    ] = None,
    license_name: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="License of the weights, as the hub spells it.",
            show_default="apache-2.0 for shipped weights, else other",
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="The card's title.", show_default="network and task")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the golden outputs on this machine.")
    ] = False,
    backend: Annotated[str, typer.Option(help=f"With --check: {BACKENDS_HELP}.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="With --check: fp32, int8 and others.")] = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Write a bundle with a model card and golden outputs, for Hugging Face or another hub.

    Exit code 3: with --check, the outputs here differ from the golden ones.
    """
    if check == (out is not None):
        raise OptionError(
            "expected --out FOLDER to write a card, or --check to compare with one; give one of "
            "them"
        )
    from mirnet_edge.export.model_card import check_golden, write_model_card
    from mirnet_edge.runtime.shipped import find_bundle

    folder = find_bundle(bundle)
    if out is not None:
        files = write_model_card(folder, out, license_name=license_name, title=title)
        names = [str(one) for one in files]
        print(json.dumps({"files": names}, indent=1) if as_json else "\n".join(names))
        return
    found = check_golden(folder, backend, precision)
    _print_check(found, as_json=as_json)
    if not found.is_met:
        raise typer.Exit(_DIFFERS)


def _print_check(found: GoldenCheck, *, as_json: bool) -> None:
    from mirnet_edge.export.model_card import LEAST_DB

    # JSON has no infinity: equal frames are null
    shown = {
        name: None if one == float("inf") else round(one, 2) for name, one in found.found_db.items()
    }
    if as_json:
        document = {"configuration": found.configuration, "met": found.is_met, "db": shown}
        print(json.dumps(document, indent=1))
        return
    for name, value in shown.items():
        print(f"{name}: {'equal' if value is None else f'{value} dB'}")
    verdict = "as where it was made" if found.is_met else f"differs: expected {LEAST_DB:g} dB"
    print(f"{found.configuration}: {verdict}")


main = command(
    card,
    examples=(
        "card build/bundle --out build/hub --license mit",
        "card build/hub --check",
    ),
)
