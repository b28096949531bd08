from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("aiortc", reason='needs pip install "mirnet-edge[web]"')


@pytest.mark.parametrize("source", ["synthetic", "browser"])
def test_the_page_is_there_at_the_address_told_and_ctrl_c_ends_it(make_bundle, source):
    code = "from mirnet_edge.cli.live import main; main()"
    options = ["--source", source, "--bundle", str(make_bundle()), "--display", "web"]
    listen = ["--host", "0.0.0.0", "--port", "0"]
    running = subprocess.Popen(
        [sys.executable, "-c", code, *options, *listen],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "40"},
    )
    try:
        line = running.stderr.readline()
        address = re.fullmatch(r"open (http://\S+/[\w-]{20,}/)\n", line).group(1)
        if source == "browser":
            advice = running.stderr.readline()
            assert advice.startswith("browsers give their camera to https only: openssl req -x509")
        with urllib.request.urlopen(address, timeout=10) as page:
            assert page.status == 200
        outside = address.rsplit("/", 2)[0]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(outside, timeout=10)
        started = time.monotonic()
        running.send_signal(signal.SIGINT)
        rest = running.communicate(timeout=20)[1]
        assert running.returncode == 0
        assert "left behind" not in rest
        assert time.monotonic() - started < 5  # a loaded machine; it is under one on a quiet one
    finally:
        running.kill()
        running.communicate()
