"""The latency table: what it holds, and when it is refused."""

from __future__ import annotations

import pytest
import torch

from mirnet_edge.errors import MissingDependencyError, OptionError
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.mirnet import MIRNet, MIRNetConfig
from mirnet_edge.pruning import timing
from mirnet_edge.pruning.importance import magnitude_importance
from mirnet_edge.pruning.timing import LatencyTable, read_table, timing_conditions
from mirnet_edge.pruning.widths import choose_widths

_SIZE = (16, 16)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MIRNet(MIRNetConfig(channels=16, groups=1, blocks=1, streams=1, columns=2)).eval()


@pytest.fixture(scope="module")
def measured(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "latency.json"
    conditions = timing_conditions(network, "onnxruntime", _SIZE, 8)
    return path, conditions, timing.measure_table(network, network, conditions, path, rounds=2)


def test_a_table_has_a_row_for_each_trunk_and_each_width(measured, network):
    path, conditions, table = measured
    assert set(table.rows) == {
        "16 whole", "16 narrowest", "16 unit_widths.0=16", "16 unit_widths.0=8",
        "8 whole", "8 unit_widths.0=8",
    }  # fmt: skip
    assert read_table(path, conditions) == table
    bases = timing.bases_from_table(table, network, 10.0)
    assert [base.config.channels for base in bases] == [16, 8]
    ((knob, value),) = bases[0].saved_ms
    assert (knob.name, value) == ("unit_widths.0", 8)
    slowest = max(base.ms for base in bases)
    assert (
        choose_widths(network, magnitude_importance(network), bases, slowest).predicted_ms
        <= slowest
    )


def test_the_streams_of_the_edge_network_are_timed_as_whole_networks(monkeypatch, tmp_path):
    network = MIRNetEdge(MIRNetEdgeConfig(channels=(16, 8, 8), exposure_channels=0))
    seen = {}

    def timed(graphs, conditions, rounds):
        seen.update(graphs)
        return {name: [1.0] for name in graphs}

    monkeypatch.setattr(timing, "_timed", timed)
    conditions = timing_conditions(network, "onnxruntime", _SIZE, 8)
    table = timing.measure_table(network, network, conditions, tmp_path / "latency.json")
    assert set(table.rows) == {"16,8,8 whole", "16,8,8 narrowest", "16,8,8 channels.0=8"}
    assert seen["16,8,8 channels.0=8"][0].config.channels == (8, 8, 8)


def test_rows_are_shares_of_the_unpruned_network_under_any_load(monkeypatch, tmp_path, network):
    """Groups of graphs are timed one after the other; another program begins in between."""
    alone = {"unpruned": 8.0, "whole": 4.0, "narrowest": 2.0, "16": 3.0, "8": 1.0}
    loads = iter([1.0, 5.0, 40.0, 0.5])
    monkeypatch.setattr(timing, "OPEN_GRAPHS", 2)

    def timed(graphs, conditions, rounds):
        load = next(loads)
        times = {name: alone[name.split(" ")[-1].split("=")[-1]] for name in graphs}
        return {name: [load * ms, 2.0 * load * ms] for name, ms in times.items()}

    monkeypatch.setattr(timing, "_timed", timed)
    conditions = timing_conditions(network, "onnxruntime", _SIZE, 8)
    table = timing.measure_table(network, network, conditions, tmp_path / "latency.json")
    assert table.rows == {
        "16 whole": 0.5, "16 narrowest": 0.25,
        "16 unit_widths.0=16": 0.375, "16 unit_widths.0=8": 0.125,
        "8 whole": 0.5, "8 unit_widths.0=8": 0.125,
    }  # fmt: skip
    assert timing.bases_from_table(table, network, 100.0)[0].ms == 50.0


def test_what_blocks_save_alone_is_scaled_to_what_they_save_together():
    network = MIRNet(MIRNetConfig(channels=8, groups=1, blocks=2, streams=2, columns=1))
    conditions = timing_conditions(network, "onnxruntime", _SIZE, 8)
    rows = {
        "8 whole": 1.0, "8 narrowest": 0.7,
        "8 unit_widths.0=8": 0.1,
        "8 unit_widths.1=16": 0.3, "8 unit_widths.1=8": 0.1,  # runs in two blocks: 4 ms
        "8 down_widths.0=8": 0.1,
        "8 up_widths.0=16": 0.2, "8 up_widths.0=8": 0.1,  # the same: 2 ms
    }  # fmt: skip
    table = LatencyTable(conditions=conditions, rounds=1, unpruned_ms=7.0, rows=rows)
    (base,) = timing.bases_from_table(table, network, 10.0)
    saved = {(knob.name, value): ms for (knob, value), ms in base.saved_ms.items()}
    assert saved == {
        ("unit_widths.1", 8): pytest.approx(2.0), ("up_widths.0", 8): pytest.approx(1.0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"backend_version": "0"}, "another backend_version; remove it"),
        ({"size": (32, 32)}, "another size"),
        ({"round_to": 16}, "another round_to"),
    ],
    ids=["version", "size", "rounding"],
)
def test_a_table_of_other_conditions_is_stale(measured, change, says):
    path, conditions, _ = measured
    with pytest.raises(OptionError, match=says):
        read_table(path, conditions.model_copy(update=change))


def test_a_table_of_another_machine_is_stale(measured):
    path, conditions, _ = measured
    other = conditions.machine.model_copy(update={"processor": "another"})
    with pytest.raises(OptionError, match="another machine"):
        read_table(path, conditions.model_copy(update={"machine": other}))


def test_a_file_that_is_no_table_is_one_line(tmp_path, measured):
    file = tmp_path / "latency.json"
    file.write_text("{}")
    for path in (file, tmp_path / "absent.json"):
        with pytest.raises(OptionError, match="is not a latency table"):
            read_table(path, measured[1])


def test_backends_and_sizes_that_are_not_here_are_refused(network, monkeypatch):
    with pytest.raises(OptionError, match="--backend must be onnxruntime or openvino, found 'x'"):
        timing_conditions(network, "x", _SIZE, 8)
    wide = MIRNet(MIRNetConfig(channels=8, groups=1, blocks=1))
    with pytest.raises(OptionError, match="multiples of 4 for this network, found 18x16"):
        timing_conditions(wide, "onnxruntime", (16, 18), 8)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match="openvino"):
        timing_conditions(network, "openvino", _SIZE, 8)
