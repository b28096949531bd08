"""The memory that is left, by the files of Linux."""

from __future__ import annotations

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
