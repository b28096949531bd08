"""Predictions: costs against the counter, ranges that order as they must, verdicts people read."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace

import pytest

from mirnet_edge import devices
from mirnet_edge.devices import DEVICES, SpeedProbe, choose_devices
from mirnet_edge.errors import OptionError
from mirnet_edge.planning import plan_network, predict


@pytest.fixture(scope="module")
def cost():
    from mirnet_edge import checkpoints
    from mirnet_edge.planning import cost_of

    return cost_of(checkpoints.load("shipped:low-light").model, 360, 640)


@pytest.mark.parametrize("name", ["edge", "mirnet", "mirnet-v2"])
def test_the_graph_holds_about_the_macs_that_the_network_is_counted_with(name, network_of):
    from mirnet_edge.models.macs import count_macs
    from mirnet_edge.planning import cost_of

    network = network_of(name)
    found = cost_of(network, 64, 96).macs
    counted = count_macs(network, 64, 96)
    # the inference form does 1x1 convolutions before it enlarges: fewer, never more than 5 %
    assert 0.5 * counted < found <= 1.05 * counted


def test_four_times_the_pixels_cost_four_times_as_much(cost, network_of):
    from mirnet_edge.planning import cost_of

    small, large = (cost_of(network_of("mirnet"), side, side) for side in (64, 128))
    assert large.macs == pytest.approx(4 * small.macs, rel=0.02)
    assert large.values(fused=False) == pytest.approx(4 * small.values(fused=False), rel=0.05)
    assert large.values(fused=True) < large.values(fused=False)


@pytest.mark.parametrize("name", DEVICES)
def test_every_range_is_a_range(name, cost):
    found = [predict(cost, DEVICES[name], precision, 25) for precision in ("fp32", "fp16", "int8")]
    for one in found:
        assert 0 < one.best_ms < one.worst_ms < math.inf
        assert one.best_ms < one.middle_ms < one.worst_ms
    assert [one.best_ms for one in found] == sorted([one.best_ms for one in found], reverse=True)


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_says_where_its_figures_are_from(name):
    source = DEVICES[name].source
    assert re.search(r"nvidia|Intel|Raspberry Pi|computed", source, re.IGNORECASE), source


@dataclass(frozen=True)
class Orin:
    name: str
    cores: int
    mhz: float
    mb_per_s: float
    """Of the memory: its clock in MHz, twice, times its bits by eight."""


@pytest.mark.parametrize(
    "board",
    [
        Orin("orin-nano", 1024, 625, 2133 * 2 * 16),
        Orin("orin-nano-super", 1024, 1020, 3199 * 2 * 16),
        Orin("orin-nx", 1024, 918, 3199 * 2 * 16),
        Orin("orin-nx-super", 1024, 1173, 3199 * 2 * 16),
        Orin("agx-orin", 2048, 1301, 3199 * 2 * 32),
    ],
    ids=lambda board: board.name,
)
def test_the_rates_of_an_orin_follow_from_its_cores_and_clocks(board):
    device = DEVICES[board.name]
    fp32 = 2e-6 * board.cores * board.mhz
    assert device.fp32_tflops == pytest.approx(fp32, rel=0.01)
    assert device.fp16_tflops == pytest.approx(8 * fp32, rel=0.01)
    assert device.int8_tops == pytest.approx(16 * fp32, rel=0.01)
    assert device.bandwidth_gbs == pytest.approx(1e-3 * board.mb_per_s, rel=0.01)


def test_a_faster_device_is_predicted_faster(cost):
    slow = DEVICES["orin-nano"]
    assert predict(cost, DEVICES["agx-orin"], "fp16", 25).best_ms < (
        predict(cost, slow, "fp16", 25).best_ms
    )
    more = replace(slow, bandwidth_gbs=10 * slow.bandwidth_gbs)
    assert predict(cost, more, "fp16", 25).worst_ms < predict(cost, slow, "fp16", 25).worst_ms


def test_full_mirnet_cannot_be_live_on_orin_nano_and_the_family_can():
    orin = choose_devices(["orin-nano"])
    (plan,) = plan_network("mirnet", orin, [(360, 640)], 25)
    (answer,) = plan.devices
    assert answer.outcome == "no"
    assert plan.cost.macs == pytest.approx(1.65e12, rel=0.05)
    assert not answer.best.can
    assert "full mirnet (published width) at 640x360 cannot reach 25 fps on Orin Nano" in (
        answer.sentence
    )
    assert re.search(r"needs 8\d\.\d TFLOP/s", answer.sentence)
    assert answer.instead.startswith("use shipped:low-light")
    (plan,) = plan_network("shipped:low-light", orin, [(360, 640)], 25)
    (family,) = plan.devices
    assert family.outcome == "yes"
    assert "reaches 25 fps" in family.sentence
    assert family.instead == ""


def test_what_does_not_fit_or_has_no_tensorrt_says_so(cost):
    from mirnet_edge.planning import describe_prediction

    small = replace(DEVICES["orin-nano"], memory_gib=0.1)
    assert "does not fit" in describe_prediction("net", cost, predict(cost, small, "fp16", 25))
    xavier = predict(cost, DEVICES["xavier-nx"], "fp16", 25)
    assert "JetPack 5 ends at TensorRT 8.5" in describe_prediction("net", cost, xavier)


def test_an_unknown_device_or_size_is_one_line(monkeypatch):
    monkeypatch.setattr(devices, "device_here", lambda: pytest.fail("measured before the check"))
    with pytest.raises(OptionError, match=r"--device must be one of orin-nano.*found 'tpu'"):
        choose_devices(["here", "tpu"])
    with pytest.raises(OptionError, match="must be positive"):
        plan_network("shipped:low-light", choose_devices(["t4"]), [(0, 640)], 25)


def test_devices_are_chosen_once_and_here_is_measured(monkeypatch):
    here = replace(DEVICES["x86-avx2"], name="here", is_measured=True, source="")
    monkeypatch.setattr(devices, "device_here", lambda: here)
    assert choose_devices(["t4", "here", "t4"]) == [DEVICES["t4"], here]
    assert choose_devices(["all"]) == list(DEVICES.values())
    assert here.basis == "measured here"
    assert {one.basis for one in DEVICES.values()} == {
        "vendor's", "computed", "to check"
    }  # fmt: skip


def test_a_slow_precision_is_replaced_by_one_that_reaches_the_rate(cost):
    """The preferred precision of a processor is fp32; INT8 is planned where fp32 may not do."""
    avx2 = choose_devices(["x86-vnni"])
    (plan,) = plan_network("shipped:low-light", avx2, [(720, 1280)], 1.0)
    assert plan.devices[0].best.precision == "fp32"
    fp32 = next(one for one in plan.devices[0].predictions if one.precision == "fp32")
    between = (fp32.worst_fps + fp32.best_fps) / 2
    (plan,) = plan_network("shipped:low-light", avx2, [(720, 1280)], between)
    assert plan.devices[0].best.precision == "int8"


def test_this_machine_is_measured_with_the_clock_it_is_given():
    times = iter(range(100))
    probe = SpeedProbe(clock=lambda: float(next(times)))
    probe.measure()
    device = probe.device()
    assert device.fp32_tflops == pytest.approx(2e-12 * 768**3)
    assert device.bandwidth_gbs == pytest.approx(2e-9 * (64 << 20))
    assert device.fp32_tflops < device.int8_tops
    assert not device.is_gpu


def test_the_command_says_predicted_everywhere(capsys):
    from mirnet_edge.cli.plan import main

    for arguments in (["--device", "t4", "--device", "h100"], ["--device", "t4", "--json"]):
        with pytest.raises(SystemExit) as left:
            main(["shipped:low-light", "--size", "640x360", *arguments])
        assert left.value.code == 0
        out = capsys.readouterr().out
        if "--json" in arguments:
            document = json.loads(out)
            assert document["predicted"] is True
            assert "nvidia.com" in document["devices"][0]["source"]
            assert document["devices"][0]["precisions"]["fp16"]["fps"][0] > 0
        else:
            assert out.count("predicted: ") == 2


def test_the_table_has_a_row_per_device_and_a_cell_per_size(capsys):
    from mirnet_edge.cli.plan import main

    with pytest.raises(SystemExit):
        main(["--device", "all"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[1 : 2 + len(DEVICES)])) <= 80
    assert "Predicted" in lines[0]
    assert re.split(r"\s{2,}", lines[1].strip()) == [
        "device", "854x480", "1280x720", "1920x1080", "rates"
    ]  # fmt: skip
    rows = {line.split()[0]: line for line in lines[2 : 2 + len(DEVICES)]}
    assert set(rows) == set(DEVICES)
    for name, line in rows.items():
        cells = re.findall(r"\b(yes|maybe|no)\b", line)
        assert len(cells) == 3, line
        order = ["no", "maybe", "yes"]
        ranks = [order.index(cell) for cell in cells]
        assert ranks == sorted(ranks, reverse=True), name  # a larger frame is never easier
        assert DEVICES[name].basis in line
    assert "(CPU only)" in rows["xavier-nx"]
    assert "never measured" in lines[-1]


def test_several_sizes_as_json_are_several_plans(capsys):
    from mirnet_edge.cli.plan import main

    with pytest.raises(SystemExit):
        main(["--device", "t4", "--size", "64x64,128x64", "--json"])
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert [(one["width"], one["height"]) for one in plans] == [(64, 64), (128, 64)]
    assert plans[0]["devices"][0]["live"] == "yes"
    assert plans[0]["devices"][0]["basis"] == "vendor's"


@pytest.mark.parametrize("name", ["core-ultra-200v-npu", "core-ultra-100-npu", "arc-b580"])
def test_devices_of_intel_are_planned_for_openvino_and_said_to_be_estimated(name, capsys):
    from mirnet_edge.cli.plan import main

    with pytest.raises(SystemExit):
        main(["--device", name, "--size", "640x480"])
    out = capsys.readouterr().out
    kind = DEVICES[name].kind
    assert kind == ("npu" if name.endswith("npu") else "gpu")
    assert f"estimated, never measured: by OpenVINO, --backend openvino-{kind}" in out
    assert ", fp16" in out
