"""`mirnet web`: a page that is written, kept or served, and what is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request

import pytest

from mirnet_edge.cli.web import main
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.export.web.runtime import find_archive


@pytest.fixture(scope="module")
def runtime_archive():
    try:
        return find_archive()
    except MirnetEdgeError as error:
        pytest.skip(f"no onnxruntime-web on this machine: {error}")


def test_a_page_is_written_kept_and_served_until_ctrl_c(make_bundle, tmp_path, runtime_archive):
    page = tmp_path / "page"
    options = ["--out", page, "--runtime", runtime_archive, "--port", "0", "--no-open"]
    code = "from mirnet_edge.cli.web import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, (make_bundle(), *options))],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert " MB, fp32, WASM and WebGPU; mirnet web " in running.stderr.readline()
        address = running.stderr.readline().removeprefix("open ").strip()
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        running.send_signal(signal.SIGINT)
        rest = running.communicate(timeout=20)[1]
        assert (running.returncode, rest) == (0, "")
    finally:
        running.kill()
        running.communicate()
    assert (page / "index.html").is_file()


def test_without_serving_the_folder_is_all(ran, make_bundle, tmp_path, runtime_archive):
    page = tmp_path / "page"
    bundle = make_bundle()
    done = ran(main, bundle, "--out", page, "--runtime", runtime_archive, "--no-serve")
    assert done.code == 0
    assert (page / "page.json").is_file()
    assert ran(main, page, "--no-serve", "--out", tmp_path / "b").line.endswith("leave --out out")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--no-serve"], "--no-serve without --out would keep nothing; give --out DIR"),
        (["shipped:lowlight"], "Did you mean shipped:low-light?"),
        (["--runtime", "absent.tgz"], "--runtime absent.tgz does not exist; expected the archive"),
        (["absent"], "absent is not a bundle"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(ran, arguments, says):
    done = ran(main, *arguments)
    assert done.code == 2
    assert says in done.line
