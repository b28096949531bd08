"""Files are written whole or not at all, whatever kills the writer."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from mirnet_edge import files
from mirnet_edge.errors import MirnetEdgeError

# stops inside the block, or after the new folder is complete but before it takes its place
_WRITER = """
import sys, time
from pathlib import Path
from mirnet_edge import files

def stop():
    print("ready", flush=True)
    time.sleep(60)

if sys.argv[2] == "swap":
    files._swap = lambda staging, target: stop()
with files.replace_folder(Path(sys.argv[1])) as folder:
    (folder / "new.txt").write_text("new")
    if sys.argv[2] == "block":
        stop()
"""


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_content_is_replaced_and_nothing_else_remains(tmp_path):
    target = tmp_path / "file"
    files.write_atomically(target, b"old")
    files.write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert names_in(tmp_path) == ["file"]


def test_a_result_is_readable_like_any_other_file(tmp_path):
    target = tmp_path / "file"
    files.write_atomically(target, b"")
    (tmp_path / "other").touch()
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MirnetEdgeError, match="file cannot be written"):
        files.write_atomically(tmp_path / "file" / "deeper", b"")


def test_the_folder_appears_whole(tmp_path):
    target = tmp_path / "bundle"
    for content in ("one", "two"):
        with files.replace_folder(target) as folder:
            (folder / content).write_text(content)
            assert not (target / content).exists()
    assert names_in(target) == ["two"]
    assert names_in(tmp_path) == ["bundle"]


def test_a_failed_block_leaves_the_former_folder(tmp_path):
    target = tmp_path / "bundle"
    with files.replace_folder(target) as folder:
        (folder / "old").touch()
    with pytest.raises(KeyboardInterrupt), files.replace_folder(target) as folder:
        raise KeyboardInterrupt
    assert names_in(target) == ["old"]
    assert names_in(tmp_path) == ["bundle"]


@pytest.mark.parametrize("moment", ["block", "swap"])
def test_a_kill_leaves_the_former_folder(tmp_path, moment):
    target = tmp_path / "bundle"
    with files.replace_folder(target) as folder:
        (folder / "old").touch()
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(target), moment], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.send_signal(signal.SIGKILL)
    assert names_in(target) == ["old"]
    # the next writer clears what the killed one had begun
    with files.replace_folder(target) as folder:
        (folder / "new").touch()
    assert names_in(tmp_path) == ["bundle"]


def test_another_living_writer_is_left_alone(tmp_path):
    target = tmp_path / "bundle"
    with files.replace_folder(target) as first:
        (first / "first").touch()
        with files.replace_folder(target) as second:
            (second / "second").touch()
        assert first.is_dir()
    assert names_in(target) == ["first"]


def test_two_renames_where_folders_cannot_be_exchange(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, two: False)
    target = tmp_path / "bundle"
    for content in ("one", "two"):
        with files.replace_folder(target) as folder:
            (folder / content).touch()
    assert names_in(target) == ["two"]
    assert names_in(tmp_path) == ["bundle"]


def test_a_folder_moved_aside_by_a_killed_writer_comes_back(tmp_path):
    (tmp_path / ".bundle.former").mkdir()
    files.recover(tmp_path / "bundle")
    assert (tmp_path / "bundle").is_dir()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "bundle").write_text("")
    with (
        pytest.raises(MirnetEdgeError, match="bundle is a file"),
        files.replace_folder(tmp_path / "bundle"),
    ):
        pass


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert files.sha256_of(tmp_path / "file") == known


@pytest.mark.parametrize("letter", ["a", "é", "夜"])
def test_a_file_with_the_longest_name_is_written(tmp_path, letter):
    size = len(letter.encode())
    target = tmp_path / f"{letter * ((files.NAME_BYTES - 4) // size)}.jpg"
    files.write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert names_in(tmp_path) == [target.name]
    beside = files.hidden_sibling(target, ".parts")
    assert len(beside.name.encode()) <= files.NAME_BYTES
    assert beside.name.startswith(f".{letter}")
    other = files.hidden_sibling(target.with_suffix(".png"), ".parts")
    assert beside != other


@pytest.mark.parametrize(
    ("platform", "variable", "ends"),
    [
        ("linux", "XDG_CACHE_HOME", "xdg/mirnet-edge"),
        ("win32", "LOCALAPPDATA", "xdg/mirnet-edge"),
        ("darwin", None, "Library/Caches/mirnet-edge"),
    ],
)
def test_the_cache_is_where_the_system_keeps_caches(
    platform, variable, ends, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "xdg"))
    assert files.user_cache().as_posix().endswith(ends)
