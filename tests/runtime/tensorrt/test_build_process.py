"""Building apart: what the parent makes of a worker that reports, fails, dies or hangs."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass

import pytest

from mirnet_edge import errors
from mirnet_edge.errors import EngineError, MissingDependencyError
from mirnet_edge.runtime.tensorrt import build_process
from mirnet_edge.runtime.tensorrt.build import BuildSettings, OptimizationProfile, workspace_of
from mirnet_edge.runtime.tensorrt.build_process import (
    BuildRequest,
    build_apart,
    describe_attempt,
    ladder,
)

_SMALL, _LARGE = ((1, side, 2 * side, 3) for side in (16, 32))
_PROFILES = (
    OptimizationProfile(_SMALL, _SMALL, _SMALL),
    OptimizationProfile(_LARGE, _LARGE, _LARGE),
)
_FACTS = (
    "{'plan': {'file': 'x.plan', 'sha256': '', 'size_bytes': 1}, 'graph': request['graph'],"
    "'flavor': 'tensorrt', 'version': '10.3.0', 'profiles': request['profiles'],"
    "'flags': {name: request[name] for name in ('workspace_mib', 'level') if request[name]}}"
)


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Put a script in the worker's place: worker("send('done', facts=FACTS)")."""

    def put(body):
        script = tmp_path / "worker.py"
        script.write_text(
            "import json, os, signal, sys, time\n"
            "request = json.load(sys.stdin)\n"
            "def send(event, **content):\n"
            "    print(json.dumps({'event': event, **content}), flush=True)\n"
            f"facts = {_FACTS}\n" + textwrap.dedent(body)
        )
        monkeypatch.setattr(build_process, "_WORKER", (str(script),))

    return put


@pytest.fixture
def order(tmp_path):
    return BuildRequest(
        onnx=tmp_path / "net.onnx", plan=tmp_path / "net.plan", profiles=_PROFILES, graph="fp16"
    )


def test_what_the_worker_reports_is_told_and_given(worker, order):
    worker("send('progress', text='Tactics: 3 of 9')\nprint('noise')\nsend('done', facts=facts)")
    told = []
    facts = build_apart(order, told.append)
    assert (facts.graph, len(facts.profiles)) == ("fp16", 2)
    assert [line.rpartition(",")[0] for line in told] == ["fp16: Tactics: 3 of 9"]


def test_silence_is_broken_with_the_elapsed_time(worker, order):
    worker("time.sleep(1.0)\nsend('done', facts=facts)")
    told = []
    build_apart(order, told.append, heartbeat_s=0.2)
    assert len(told) >= 2
    assert all(line.startswith("fp16: still building, ") for line in told)


@dataclass(frozen=True)
class Ending:
    id: str
    body: str
    kind: type
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Ending("refused", "send('error', kind='EngineError', text='node conv')", EngineError,
               "^node conv$"),
        Ending("no TensorRT", "send('error', kind='MissingDependencyError', text='none')",
               MissingDependencyError, "^none$"),
        Ending("full disk", "send('error', kind='MirnetEdgeError', text='x.plan cannot be written "
               "(No space left on device)')", errors.MirnetEdgeError, "No space left"),
        Ending("crash", "print('fatal: illegal', file=sys.stderr, flush=True)\n"
               "os.kill(os.getpid(), signal.SIGSEGV)", EngineError,
               "ended with code -11: fatal: illegal"),
        Ending("silent end", "sys.exit(4)", EngineError, "ended with code 4: no message"),
    ],
    ids=lambda case: case.id,
)  # fmt: skip
def test_a_worker_that_fails_is_one_line(case, worker, order):
    worker(case.body)
    with pytest.raises(case.kind, match=case.says) as caught:
        build_apart(order)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "failing", ["send('error', kind='memory', text='no memory')", "os.kill(os.getpid(), 9)"],
    ids=["told by TensorRT", "killed by the system"],
)  # fmt: skip
def test_out_of_memory_goes_down_the_ladder_and_tells_each_step(failing, worker, order):
    worker(f"""
    if request['level'] is None:
        {failing}
    else:
        send('done', facts=facts)
    """)
    told = []
    facts = build_apart(order, told.append)
    assert facts.flags == {"workspace_mib": 256, "level": 1}
    assert len(told) == 2
    assert told[0] == (
        "out of memory with workspace unlimited, level 3, 2 profiles up to 1x32x64x3; "
        "again with workspace 512 MiB, level 3, 2 profiles up to 1x32x64x3"
    )
    assert "again with workspace 256 MiB, level 1" in told[1]


def test_the_ladder_ends_with_advice(worker, order):
    worker("send('error', kind='memory', text='no memory')")
    told = []
    with pytest.raises(
        EngineError, match=r"no memory. Tried 4 times, last with .*1 profile .*swap"
    ):
        build_apart(order, told.append)
    assert len(told) == 3


@pytest.mark.parametrize("settings", [BuildSettings(), BuildSettings(workspace_mib=100, level=0)])
@pytest.mark.parametrize(
    "profiles", [_PROFILES, (OptimizationProfile(_SMALL, _SMALL, _LARGE),), (_PROFILES[0],)]
)
def test_no_rung_asks_for_more_than_the_one_before(settings, profiles, order, tmp_path):
    rungs = list(ladder(BuildRequest(
        onnx=order.onnx, plan=order.plan, profiles=profiles, graph="g", settings=settings
    )))  # fmt: skip
    assert rungs[0].settings == settings
    assert rungs[0].profiles == profiles
    for former, rung in itertools.pairwise(rungs):
        assert (rung.settings.workspace_mib or 0) <= (former.settings.workspace_mib or 1 << 30)
        level = 3 if former.settings.level is None else former.settings.level
        assert (rung.settings.level if rung.settings.level is not None else 3) <= level
        assert max(one.maximum for one in rung.profiles) <= max(
            one.maximum for one in former.profiles
        )
    assert len(set(map(describe_attempt, rungs))) >= len(rungs) - (settings.level == 0)


def test_half_of_a_memory_that_is_shared_and_most_of_one_that_is_not():
    assert workspace_of(8000, shared=True) == 4000
    assert workspace_of(8000, shared=False) == 6400
    assert workspace_of(10, shared=True) == 64


def test_an_interruption_ends_the_worker(worker, order, tmp_path):
    pid = tmp_path / "pid"
    worker(f"open({str(pid)!r}, 'w').write(str(os.getpid()))\nsend('progress', text='a')\n"
           "signal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)")  # fmt: skip

    def interrupt(told):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build_apart(order, interrupt)
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_worker_that_ignores_the_end_is_killed(worker, order, monkeypatch):
    monkeypatch.setattr(build_process, "_GRACE_S", 0.3)
    worker("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsend('progress', text='a')\n"
           "time.sleep(60)")  # fmt: skip

    def fail(told):
        raise ValueError("caller")

    with pytest.raises(ValueError, match="caller"):
        build_apart(order, fail)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX")
def test_the_real_worker_builds_without_torch(order, tmp_path, monkeypatch, make_graph):
    pytest.importorskip("tensorrt_rtx", reason="pip install mirnet-edge[tensorrt-rtx]")
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    make_graph(order.onnx)
    told = []
    from dataclasses import replace

    facts = build_apart(replace(order, flavor="tensorrt_rtx"), told.append)
    assert order.plan.stat().st_size == facts.plan.size_bytes
    assert any(" of " in line for line in told), told  # real phases
    broken = subprocess.run(
        [sys.executable, "-c", "import torch"], capture_output=True, text=True, check=False
    )
    assert "torch was imported" in broken.stderr  # the check above can fail
