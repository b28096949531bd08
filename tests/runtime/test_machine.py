"""What a machine is, from tables recorded on three of them."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass

import pytest

from mirnet_edge.runtime import machine

_X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8 amx_tile avx512_bf16
processor\t: 1
model name\t: another, which does not count
flags\t\t: fpu sse2
"""
_RASPBERRY = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes crc32 asimdhp asimddp
CPU part\t: 0xd0b
"""
_BOARD = "Raspberry Pi 5 Model B Rev 1.0\0"


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Put files in place of the system's; None for one that is not there."""

    def put(table, board=None):
        for name, content in (("_PROCESSOR_FILE", table), ("_BOARD_FILE", board)):
            path = tmp_path / name
            if content is not None:
                path.write_text(content)
            monkeypatch.setattr(machine, name, path)

    return put


@dataclass(frozen=True)
class Machine:
    id: str
    table: str | None
    board: str | None
    processor: str
    instructions: list[str]


@pytest.mark.parametrize(
    "case",
    [
        Machine(
            "x86",
            _X86,
            None,
            "Intel(R) Xeon(R) Processor",
            ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"],
        ),
        Machine(
            "arm board",
            _RASPBERRY,
            _BOARD,
            "Raspberry Pi 5 Model B Rev 1.0",
            ["asimd", "asimdhp", "asimddp"],
        ),
        Machine(
            "x86 board",
            "model name : Atom\n",
            "a board",
            "Atom",
            [],
        ),
        Machine("another system", None, None, "arm", []),
        Machine("an empty table", "", None, "arm", []),
    ],
    ids=lambda case: case.id,
)
def test_the_processor_and_what_it_can(case, pretend, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    pretend(case.table, case.board)
    facts = machine.describe()
    assert facts.processor == case.processor
    assert facts.instructions == case.instructions


def test_a_machine_that_tells_nothing_still_has_a_name(pretend, monkeypatch):
    pretend(None)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert machine.describe().processor == "riscv64"
    monkeypatch.setattr(platform, "machine", lambda: "")
    assert machine.describe().processor == "unknown"


def test_bytes_that_are_no_text_do_no_harm(tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    path.write_bytes(b"model name\t: caf\xe9\n")
    monkeypatch.setattr(machine, "_PROCESSOR_FILE", path)
    assert machine.describe().processor.startswith("caf")


def test_this_machine_is_described_without_telling_whose_it_is():
    facts = machine.describe()
    assert facts.processor
    assert facts.system == f"{platform.system()} {platform.machine()}"
    assert facts.python == platform.python_version()
    assert facts.cores == machine.usable_cores()
    text = facts.model_dump_json()
    assert "/" not in facts.system
    assert os.getcwd() not in text  # noqa: PTH109  # its text, not a path
    assert f'"{socket.gethostname()}' not in text


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert machine.usable_cores() == 3


@pytest.mark.parametrize(("counted", "usable"), [(8, 8), (None, 1)])
def test_cores_where_the_system_has_no_affinity(counted, usable, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert machine.usable_cores() == usable
