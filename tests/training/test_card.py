"""The card says which source tree made the weights."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from mirnet_edge.training.job import find_revision

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def _git(folder, *words):
    names = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", folder, *names, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_checkout_has_its_commit_and_a_mark_once_it_is_changed(tmp_path):
    _git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("one")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-qm", "one")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert find_revision(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert find_revision(tmp_path) == f"{commit}+"


def test_an_installed_package_has_none(tmp_path):
    assert find_revision(tmp_path) is None


def test_a_broken_checkout_has_none(tmp_path):
    (tmp_path / ".git").mkdir()
    assert find_revision(tmp_path) is None
