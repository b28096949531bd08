"""The job: what it leaves behind, where a stopped one goes on, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mirnet_edge import checkpoints
from mirnet_edge.errors import CheckpointError, DataError, MirnetEdgeError, OptionError
from mirnet_edge.files import sha256_of
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.models.mirnet_v2 import MIRNetV2, MIRNetV2Config
from mirnet_edge.pruning import job
from mirnet_edge.pruning.job import PruningRequest, load_pruning
from mirnet_edge.pruning.record import RECORD_FILE, TABLE_FILE, WEIGHTS_FILE, PruneRecord

pytestmark = pytest.mark.usefixtures("made_up_times")


class RecordingObserver:
    """Records its calls; interrupts the run at a stage of that name or at a training step."""

    def __init__(self, ends_at=None):
        self.stages = []
        self.steps = 0
        self.ends_at = ends_at

    def on_stage(self, what):
        self.stages.append(what)
        if self.ends_at and what.startswith(self.ends_at):
            raise KeyboardInterrupt

    def on_step(self, step, loss):
        self.steps += 1

    def on_loading(self, total): ...
    def on_loaded(self): ...
    def on_start(self, recipe, step, exposure_steps): ...
    def on_exposure_step(self, step, loss): ...
    def on_damage_step(self, step, loss): ...
    def on_initial_score(self, score): ...
    def on_validated(self, score): ...
    def on_interpolated(self, share, accuracy_drop_db): ...
    def on_labeling(self, total): ...
    def on_labeled(self): ...


def prune(request, observer, *clock):
    return job.prune_weights(load_pruning(request), observer, *clock)


@pytest.fixture
def request_for(pairs, weights, tmp_path):
    def make(**values):
        usual = {
            "weights": str(weights), "data": pairs, "out": tmp_path / "out",
            "backend": "onnxruntime", "size": (16, 16), "device": "cpu", "workers": 0,
            "training": {"steps": 3, "batch": 1, "crops": (16,)},
        }  # fmt: skip
        return PruningRequest(**(usual | values))

    return make


def test_the_pruned_network_is_narrower_and_has_a_card_and_a_record(request_for, weights):
    request = request_for(speedup=1.5)
    found = prune(request, RecordingObserver())
    loaded = checkpoints.load(request.out / WEIGHTS_FILE)
    assert loaded.card.parent == loaded.card.teacher == sha256_of(weights)
    assert loaded.card.license == "ours"
    assert "pruned by taylor; " in loaded.card.note
    written = json.loads((request.out / RECORD_FILE).read_text())
    assert PruneRecord.model_validate(written) == found
    (only,) = written["rounds"]
    attempt = only["attempts"][only["best"]]
    assert found.finished
    assert found.reached
    assert written["options"]["speedup"] == 1.5
    assert written["options"]["weights_sha256"] == sha256_of(weights)
    assert written["conditions"]["backend"] == "onnxruntime"
    assert attempt["config"] == config_as_json(loaded)
    assert attempt["predicted_ms"] <= 1.05 * only["table_unpruned_ms"] / 1.5
    assert attempt["pruned_ms"] <= attempt["unpruned_ms"] / 1.5
    assert loaded.card.figures["speedup"] == pytest.approx(
        attempt["unpruned_ms"] / attempt["pruned_ms"], abs=1e-3
    )
    assert only["distilled"]["steps"] == 3
    assert only["distilled"]["psnr_db"] == pytest.approx(
        loaded.card.figures["val_psnr_db"], abs=1e-3
    )
    assert {written["unpruned"]["psnr_db"], only["cut"]["psnr_db"]}.isdisjoint({None})
    assert written["pruned_size"]["gmacs"] < written["unpruned_size"]["gmacs"]
    assert written["pruned_size"]["parameters"] < written["unpruned_size"]["parameters"]


def config_as_json(loaded):
    return json.loads(json.dumps(dataclasses.asdict(loaded.model.config)))


def test_a_finished_run_is_told_and_not_repeated(request_for, made_up_times):
    request = request_for(speedup=1.5)
    first = prune(request, RecordingObserver())
    before = dict(made_up_times)
    observer = RecordingObserver()
    assert prune(request, observer) == first
    assert (observer.stages, observer.steps, made_up_times) == ([], 0, before)


@pytest.mark.parametrize(
    ("ends_at", "tables", "timings"),
    [("time the pruned network", 0, 1), ("validate", 0, 1), ("distill from", 0, 0)],
    ids=["after the table", "after the timing", "before training"],
)
def test_an_interrupted_run_resumes(request_for, made_up_times, ends_at, tables, timings):
    request = request_for(speedup=1.5)
    with pytest.raises(KeyboardInterrupt):
        prune(request, RecordingObserver(ends_at))
    made_up_times.update(tables=0, timings=0)
    found = prune(request, RecordingObserver())
    assert found.finished
    assert (made_up_times["tables"], made_up_times["timings"]) == (tables, timings)


def test_a_run_out_of_time_stops_after_a_stage_and_resumes(request_for):
    request = request_for(speedup=1.5)
    clock = iter(range(10**6))
    short = dataclasses.replace(request, max_seconds=0.5)
    found = prune(short, RecordingObserver(), lambda: float(next(clock)))
    assert not found.finished
    assert len(found.rounds) == 1
    assert found.rounds[0].distilled is None
    observer = RecordingObserver()
    assert prune(request, observer).finished
    assert observer.stages == ["distill from the unpruned network (round 1 of 1)"]


def test_rounds_go_part_of_the_way_each_and_learn_from_the_unpruned(request_for, weights):
    request = request_for(speedup=4.5, rounds=2, round_to=4)
    found = prune(request, RecordingObserver())
    first, second = found.rounds
    assert first.chosen.speedup >= 4.5**0.5
    assert second.chosen.speedup >= 4.5
    assert first.chosen.pruned_ms > second.chosen.pruned_ms
    assert first.chosen.unpruned_ms == second.chosen.unpruned_ms
    card = checkpoints.load(request.out / WEIGHTS_FILE).card
    assert card.parent == card.teacher == sha256_of(weights)


def test_a_slow_network_is_pruned_again(request_for, made_up_times):
    made_up_times["slower"] = 2.5
    found = prune(request_for(speedup=1.7, round_to=4), RecordingObserver())
    assert len(found.rounds[0].attempts) > 1
    assert found.rounds[0].attempts[-1].predicted_ms < found.rounds[0].attempts[0].predicted_ms


def test_what_was_not_reached_is_not_called_so(request_for, made_up_times):
    made_up_times["slower"] = 50.0
    found = prune(request_for(speedup=1.5), RecordingObserver())
    assert found.finished
    assert not found.reached


def test_blocks_go_where_that_is_asked_and_loses_less(request_for, tmp_path):
    found = prune(request_for(speedup=1.8, blocks=True), RecordingObserver())
    (only,) = found.rounds
    assert [len(one.kept[0]) for one in only.candidates] == [2, 1]
    best = min(only.candidates, key=lambda one: one.cut_loss)
    assert only.kept == best.kept
    assert only.chosen.config["blocks"] == len(best.kept[0]) == 1
    assert (tmp_path / "out/latency-1x1.json").exists()


def test_another_run_s_widths_are_taken_with_other_channels(request_for, tmp_path, made_up_times):
    first = prune(request_for(speedup=3.0, blocks=True), RecordingObserver())
    made_up_times["tables"] = 0
    request = request_for(like=tmp_path / "out", out=tmp_path / "random", importance="random")
    second = prune(request, RecordingObserver())
    assert made_up_times["tables"] == 0
    assert second.rounds[0].chosen.config == first.rounds[0].chosen.config
    assert second.rounds[0].kept == first.rounds[0].kept
    assert second.rounds[0].cut.psnr_db != first.rounds[0].cut.psnr_db
    assert second.finished


@pytest.mark.parametrize(
    "network",
    [
        lambda: MIRNetEdge(MIRNetEdgeConfig(channels=(16, 16, 16), exposure_channels=4)),
        lambda: MIRNetV2(MIRNetV2Config(channels=16, groups=1, blocks=1, conv_groups=(2,))),
    ],
    ids=["edge", "mirnet-v2"],
)
def test_the_other_families_are_pruned_alike(request_for, tmp_path, network):
    torch.manual_seed(0)
    file = tmp_path / "other.safetensors"
    checkpoints.save(network(), file, checkpoints.ModelCard(task="low-light"))
    found = prune(request_for(weights=str(file), speedup=1.3), RecordingObserver())
    assert found.finished
    assert found.reached
    assert found.pruned_size.gmacs < found.unpruned_size.gmacs


@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_other_importances_choose_too(request_for, importance):
    assert prune(request_for(speedup=1.5, importance=importance), RecordingObserver()).finished


@dataclass(frozen=True)
class Refused:
    id: str
    values: dict
    says: str
    error: type[MirnetEdgeError] = OptionError


REFUSED = [
    Refused("no target", {}, "one of --speedup, --target-latency and --like, found none"),
    Refused("two targets", {"speedup": 2.0, "latency_ms": 5.0}, "and --like, found 2"),
    Refused("no faster", {"speedup": 1.0}, "--speedup must be above 1, found 1"),
    Refused("not a number", {"speedup": float("nan")}, "--speedup must be above 1"),
    Refused("no time", {"latency_ms": 0.0}, "--target-latency must be above 0 ms, found 0"),
    Refused("out of reach", {"speedup": 500.0}, "the narrowest network of these blocks takes"),
    Refused("reached already", {"latency_ms": 1e6}, "there is nothing to prune"),
    Refused("backend", {"speedup": 2.0, "backend": "tensorrt"}, "--backend must be onnxruntime or"),
    Refused("importance", {"speedup": 2.0, "importance": "luck"}, "--importance must be one of"),
    Refused("rounding", {"speedup": 2.0, "round_to": 0}, "--round-to must be at least 1"),
    Refused("rounds", {"speedup": 2.0, "rounds": 0}, "--rounds must be at least 1"),
    Refused("minutes", {"speedup": 2.0, "max_seconds": 0.0}, "--max-minutes must be above 0"),
    Refused("like none", {"like": Path("absent")}, "absent/prune.json is not a record"),
    Refused("recipe", {"speedup": 2.0, "recipe": "fog"}, "there is no recipe fog"),
    Refused("crop", {"speedup": 2.0, "training": {"crops": (3,)}}, "crops must be at least"),
    Refused("data", {"speedup": 2.0, "data": Path("absent")}, "holds neither", DataError),
    Refused("weights", {"speedup": 2.0, "weights": "absent.pt"}, "does not exist", CheckpointError),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_makes_no_sense_is_refused_and_leaves_no_more_than_the_table(request_for, case):
    request = request_for(**case.values)
    with pytest.raises(case.error, match=case.says):
        prune(request, RecordingObserver())
    left = [one.name for one in request.out.iterdir()] if request.out.exists() else []
    assert set(left) <= {TABLE_FILE}


def test_weights_that_do_not_say_their_task_need_it_said(request_for, weights, tmp_path):
    silent = tmp_path / "silent.safetensors"
    checkpoints.save(checkpoints.load(weights).model, silent, checkpoints.ModelCard())
    with pytest.raises(OptionError, match="give --task"):
        prune(request_for(speedup=1.5, weights=str(silent)), RecordingObserver())
    found = prune(
        request_for(speedup=1.5, weights=str(silent), task="low-light"), RecordingObserver()
    )
    assert found.options.task == "low-light"


def test_the_folder_of_another_run_is_refused_and_kept(request_for):
    request = request_for(speedup=1.5)
    prune(request, RecordingObserver())
    before = (request.out / WEIGHTS_FILE).read_bytes()
    with pytest.raises(OptionError, match="started with another speedup, seed; give the same"):
        prune(request_for(speedup=1.6, seed=1), RecordingObserver())
    assert (request.out / WEIGHTS_FILE).read_bytes() == before


def test_a_folder_of_something_else_is_refused_and_kept(request_for):
    request = request_for(speedup=1.5)
    request.out.mkdir()
    (request.out / "state.pt").write_text("precious")
    with pytest.raises(OptionError, match=r"holds state\.pt and no prune\.json"):
        prune(request, RecordingObserver())
    assert (request.out / "state.pt").read_text() == "precious"


def test_a_damaged_record_is_refused(request_for):
    request = request_for(speedup=1.5)
    request.out.mkdir()
    (request.out / RECORD_FILE).write_text("{")
    with pytest.raises(OptionError, match="is not a record that mirnet-prune wrote"):
        prune(request, RecordingObserver())


def test_a_stale_table_is_refused_and_kept(request_for):
    request = request_for(speedup=1.5)
    with pytest.raises(KeyboardInterrupt):
        prune(request, RecordingObserver("time the pruned network"))
    table = request.out / TABLE_FILE
    before = table.read_bytes()
    with pytest.raises(OptionError, match="was measured with another size; remove it"):
        prune(request_for(speedup=1.5, size=(32, 32)), RecordingObserver())
    assert table.read_bytes() == before
