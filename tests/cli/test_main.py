"""The program `mirnet`: its commands, their help, and wrong usage, which is answered at once."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from mirnet_edge.cli import main as program
from mirnet_edge.cli.application import suggest
from mirnet_edge.cli.main import FORMER_NAMES, PANELS, main

COMMANDS = [name for names in PANELS.values() for name in names]
HEAVY = {
    "torch", "nncf", "openvino", "tensorrt", "onnx", "onnxruntime", "cv2", "skimage", "av", "ray",
    "aiohttp", "matplotlib", "scipy",
}  # fmt: skip


def test_the_help_lists_every_command_in_its_panel(ran):
    shown = ran(main, "--help").out
    for panel, names in PANELS.items():
        _, _, below = shown.partition(f" {panel} ─")
        listed, _, _ = below.partition("╰")
        for name in names:
            assert f"│ {name} " in listed
    assert "--install-completion" in shown
    assert not any(name in shown for name in FORMER_NAMES)


def test_without_a_command_the_help_is_printed(ran):
    assert ran(main).out.strip() == ran(main, "--help").out.strip()


@pytest.mark.parametrize("command", [*COMMANDS, "bench compare"])
def test_every_command_ends_its_help_with_examples_that_parse(command, ran):
    shown = ran(main, *command.split(), "--help")
    assert shown.code == 0
    assert f"Usage: mirnet {command}" in shown.out
    _, _, examples = shown.out.rpartition("Example")
    lines = [line.strip() for line in examples.splitlines()[1:] if line.strip()]
    assert lines, "and none is wider than a terminal"
    assert all(line.startswith(f"mirnet {command.split()[0]}") for line in lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_examples_exist(command):
    found = import_module(f"mirnet_edge.cli.{command}").main
    built = found.build(command)
    known = {name for one in built.params for name in (*one.opts, *one.secondary_opts)}
    for example in found.examples:
        typed = {word for word in example.split() if word.startswith("--")}
        assert example.split()[0] == command
        assert typed <= known


@pytest.mark.parametrize("command", COMMANDS)
def test_former_options_are_read_and_not_shown(command, ran):
    found = import_module(f"mirnet_edge.cli.{command}").main
    known = {name for option in found.build(command).params for name in option.opts}
    shown = ran(main, command, "--help").out
    for former, present in found.former_options.items():
        assert present in known
        assert former not in known
        assert f"{former} " not in shown


def test_a_former_option_is_read_in_both_spellings(ran):
    for typed in (("--flavour", "cuda"), ("--flavour=cuda",)):
        assert "'--flavor': 'cuda' is not one of" in ran(main, "engine", "x", *typed).line


def test_a_former_command_is_read(ran):
    assert ran(main, "webcam", "--size", "big").line.startswith("mirnet webcam: --size must be")


@pytest.mark.parametrize("command", ["exprot", "Export", "expor", "exports"])
def test_a_mistyped_command_is_answered_with_the_right_one(command, ran):
    found = ran(main, command, "--int8")
    assert (found.code, found.out) == (2, "")
    assert found.line == f"mirnet: No such command {command!r}. Did you mean export?"


def test_a_word_that_resembles_no_command_gets_no_suggestion(ran):
    assert ran(main, "xyzzy").line == "mirnet: No such command 'xyzzy'. mirnet --help lists them"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("export", "--int9"), "No such option --int9. Did you mean --int8?"),
        (("export", "-int8"), "No such option -int8. Did you mean --int8?"),
        (
            ("export", "--weight", "x"),
            "No such option --weight. Did you mean --weights or --weights-key?",
        ),
        (("export", "--cal", "x"), "No such option --cal. Did you mean --calibration?"),
        (("export", "--xyzzy"), "No such option --xyzzy. mirnet export --help lists them"),
        (("bench", "compair"), "No such command 'compair'. Did you mean compare?"),
        (("train", "--learning_rate", "1"), "Did you mean --learning-rate?"),
        (("engine", "x", "--flavr=y"), "No such option --flavr. Did you mean --flavor?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistyped_option_is_answered_with_the_right_one(typed, says, ran):
    found = ran(main, *typed)
    assert (found.code, found.out) == (2, "")
    assert says in found.line


@pytest.mark.parametrize(
    ("typed", "known", "said"),
    [
        ("shipped:lowlight", ("shipped:low-light", "shipped:old-photo"), "shipped:low-light"),
        ("fp61", ("fp16", "fp32", "int8"), "fp16"),
        ("s", ("size", "sigma"), ""),
        ("si", ("size", "sigma"), "sigma or size"),
        ("backend", (), ""),
    ],
)
def test_suggestions(typed, known, said):
    assert suggest(typed, known) == (f" Did you mean {said}?" if said else "")


WRONG = [
    "--hepl",
    "exprot",
    *(f"{command} --hepl" for command in COMMANDS),
    "bench compair",
    "restore absent.png --out o",
    "restore {file} --out o --bundle absent",
    "restore {file} --out o --bundle shipped:absent",
    "restore {file} --out o --tile big",
    "restore {file} --out {file}",
    "live --bundle absent",
    "live --source absent.mp4",
    "live --size big",
    "live --display hologram",
    "export --weights absent.pth",
    "export --weights shipped:absent",
    "export --size big",
    "export --size 0x0",
    "export --int8 --calibration absent",
    "export --out {file}",
    "export --preset absent.toml",
    "export --target toaster",
    "engine absent",
    "engine shipped:low-light",
    "engine shipped:absent",
    "engine absent --preset absent.toml",
    "calibrate --source absent --out o",
    "calibrate --source 0 --out o --weights absent.pth",
    "train --data absent",
    "train --data . --init absent.pth",
    "train --data . --replay absent",
    "train --data . --recipe absent.toml",
    "train --data . --task fog",
    "train --data . --steps 0",
    "prune --data absent",
    "prune --data . --weights absent.pth",
    "prune --data . --size big",
    "distill absent.pth --data .",
    "distill {file} --data absent",
    "distill shipped:low-light --data . --prune fast",
    "sensitivity --weights absent.pth",
    "sensitivity --calibration absent",
    "sensitivity --size big",
    "bench --bundle absent",
    "bench --suite absent",
    "bench --competitor absent.onnx",
    "bench --baseline gamma --size big",
    "bench compare absent.json absent.json",
    "plan absent.pth",
    "plan --size big",
]


def test_help_and_wrong_usage_load_nothing_heavy(tmp_path):
    file = tmp_path / "file"
    file.touch()
    helps = ["--help", *(f"{command} --help" for command in COMMANDS), "bench compare --help"]
    typed = [*helps, *(line.format(file=file) for line in WRONG)]
    code = f"""
import contextlib, io, sys
from mirnet_edge.cli.main import main
for line in {typed!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main(line.split())
        except SystemExit as end:
            code = end.code
    print(code, *sorted(set(sys.modules) & {HEAVY!r}), sep=",")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = dict(zip(typed, done.stdout.splitlines(), strict=True))
    expected = {line: "0" if line.endswith("--help") else "2" for line in typed}
    assert found == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell, tmp_path):
    def complete(words):
        environment = {
            "PATH": "",
            "HOME": str(tmp_path),
            "_MIRNET_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": f"mirnet {words}",
            "COMP_CWORD": str(len(words.split())),
            "_TYPER_COMPLETE_ARGS": f"mirnet {words}",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "PYTHONPATH": ":".join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-m", "mirnet_edge"],
            capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        return done.stdout

    assert "export" in complete("exp")
    assert "--int8" in complete("export --int")
    assert "tensorrt" in complete("export --target tens")


def test_every_module_of_a_command_is_in_a_panel():
    assert program._PANEL_OF.keys() == set(COMMANDS)
    assert len(COMMANDS) == len(set(COMMANDS))


def test_a_mistyped_file_is_answered_with_the_right_one(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").touch()
    (tmp_path / "my_images").mkdir()
    found = ran(main, "export", "--weights", "weigths.pth")
    assert found.line.endswith("Did you mean weights.pth?")
    found = ran(main, "export", "--calibration", tmp_path / "my_image")
    assert found.line.endswith(f"Did you mean {tmp_path / 'my_images'}?")
