"""Recorded text of two boards through one interface.

The tegrastats lines have the form of JetPack 6 on Orin Nano and JetPack 5 on Xavier NX as NVIDIA's
documentation shows them; no board was at hand to record more.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from mirnet_edge.doctor.telemetry import (
    Jtop,
    Tegrastats,
    open_telemetry,
    reading_from_tegrastats,
)
from mirnet_edge.errors import MirnetEdgeError

_ORIN = (
    "11-25-2026 10:00:00 RAM 3162/7620MB (lfb 4x4MB) SWAP 12/3810MB (cached 0MB) "
    "CPU [12%@1510,8%@1510,off,off] GR3D_FREQ 74% cpu@48.5C soc2@47.1C gpu@47.9C tj@48.5C "
    "VDD_IN 5432mW/4900mW VDD_CPU_GPU_CV 1200mW/1000mW VDD_SOC 1400mW/1390mW"
)
_XAVIER = "RAM 1024/7772MB GR3D_FREQ 0%@1109 GPU@-2.5C GPU 300mW/290mW CPU 500mW/480mW"


def test_a_line_with_a_rail_for_the_whole_board():
    reading = reading_from_tegrastats(_ORIN)
    assert reading.power_mw == 5432
    assert reading.rails_mw == {"VDD_IN": 5432, "VDD_CPU_GPU_CV": 1200, "VDD_SOC": 1400}
    assert reading.temperatures_c == {"cpu": 48.5, "soc2": 47.1, "gpu": 47.9, "tj": 48.5}
    assert (reading.gpu_percent, reading.ram_mib, reading.swap_mib) == (74.0, 3162, 12)


def test_a_line_without_one_gives_the_sum():
    reading = reading_from_tegrastats(_XAVIER)
    assert reading.power_mw == 800
    assert reading.temperatures_c == {"GPU": -2.5}
    assert reading.swap_mib is None


def test_a_rail_that_feeds_one_part_is_not_the_whole_board():
    line = "RAM 1024/62840MB VDD_GPU_SOC 3000mW/1mW VDD_CPU_CV 800mW/1mW VIN_SYS_5V0 4000mW/1mW"
    assert reading_from_tegrastats(line).power_mw == 7800


def test_other_text_is_an_error():
    with pytest.raises(MirnetEdgeError, match="expected a line of tegrastats, found 'command not"):
        reading_from_tegrastats("command not found")


def _board(**changes):
    return SimpleNamespace(**{
        "power": {"tot": {"power": 5432}, "rail": {"VDD_IN": {"power": 5432}}},
        "temperature": {"cpu": {"temp": 48.5, "online": True}}, "stats": {"GPU": 74},
        "memory": {"RAM": {"used": 3162 << 10}, "SWAP": {"used": 12 << 10}}, "nvpmodel": "MAXN",
        "ok": iter([True, True, False]).__next__, **changes,
    })  # fmt: skip


def test_both_sources_give_the_same_reading():
    @contextmanager
    def opened(interval):
        assert interval == 0.5
        yield _board()

    from_jtop = list(Jtop(500, opened).readings())
    (from_tegrastats,) = Tegrastats(500, lambda interval: [_ORIN]).readings()
    assert len(from_jtop) == 2
    for name in ("power_mw", "gpu_percent", "ram_mib", "swap_mib"):
        assert getattr(from_jtop[0], name) == getattr(from_tegrastats, name)
    assert from_jtop[0].mode == "MAXN"


def test_where_neither_is_it_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MirnetEdgeError, match="found neither"):
        open_telemetry()
