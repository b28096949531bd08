"""The memory that is left and that a process takes, by the files of Linux."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mirnet_edge import memory


def test_the_memory_left_is_the_systems_or_the_containers(monkeypatch, tmp_path):
    system = tmp_path / "meminfo"
    monkeypatch.setattr(memory, "_MEMORY_FILE", system)
    monkeypatch.setattr(memory, "_CONTAINER_FOLDER", tmp_path)
    assert memory.available_memory() is None
    system.write_text("MemTotal:  9 kB\nMemAvailable:  4096 kB\n")
    assert memory.available_memory() == 4096 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.available_memory() == 4096 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.available_memory() == 4000


def test_the_peak_within_a_block_is_measured_not_what_is_left_at_its_end():
    with memory.watch_memory() as growth:
        taken = np.ones(50 << 20, np.uint8)
        time.sleep(0.3)
        del taken
    assert growth.peak_bytes == pytest.approx(50 << 20, rel=0.2)


def test_memory_that_is_not_reported_is_not_watched(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROCESS_FILE", tmp_path / "statm")
    assert memory.resident_memory() is None
    with (
        pytest.raises(ValueError, match="expected a system that reports memory"),
        memory.watch_memory(),
    ):
        pass
