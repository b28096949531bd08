"""One block at a time: a planted outlier is found first, stopped runs go on, others are refused."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
import torch

from mirnet_edge import checkpoints
from mirnet_edge.calibration.sets import CalibrationSample
from mirnet_edge.errors import GraphError, OptionError
from mirnet_edge.export.analysis import choose_scheme, describe_ranges
from mirnet_edge.export.onnx_graph import export_onnx
from mirnet_edge.export.sensitivity import (
    GraphEvaluator,
    MixedPrecisionChoice,
    begin_analysis,
    choose_better,
    choose_fastest_accepted,
    choose_trial_backend,
    compare_by_darkness,
    draw_sensitivity,
    find_pareto_front,
    measure_sensitivity,
    order_by_sensitivity,
    quantize_all_blocks,
    resume_analysis,
    search_graph,
)
from mirnet_edge.manifest import ImageContract, QuantizationFacts
from mirnet_edge.quantization.legalizer import list_whole_frame_convs
from mirnet_edge.quantization.mixed_precision import (
    list_blocks,
    list_quantized_convolutions,
    quantize_partly,
)
from mirnet_edge.quantization.ptq import QuantizationScheme
from mirnet_edge.runtime.shipped import find_bundle

SIZE = (32, 48)
SENSITIVE = "blocks.0.top"
IMAGE = ImageContract(io="uint8", multiple=16, size=None)


def _with_outlier(network):
    """Return the same function with one channel a thousand times larger inside one block.

    ReLU passes factors on, so fp32 does not notice; one INT8 scale for the tensor does.
    """
    planted = copy.deepcopy(network)
    body = planted.blocks[0].top.body
    with torch.no_grad():
        body[0].weight[2] *= 1000.0
        body[0].bias[2] = 1000.0 * body[0].bias[2].abs() + 50.0
        body[2].weight *= 6.0  # so that the block matters in a network that was never trained
        body[2].weight[:, 2] /= 1000.0
    return planted


@pytest.fixture(scope="module")
def planted(tmp_path_factory, network_of):
    from mirnet_edge.models.inference_form import to_inference_form

    path = tmp_path_factory.mktemp("planted") / "fp32.onnx"
    network = _with_outlier(network_of("edge"))
    export_onnx(to_inference_form(network), path, io="uint8", size=None, multiple=16)
    return path


@pytest.fixture(scope="module")
def frames(smooth_frames):
    return [frame[None] for frame in smooth_frames(*SIZE, count=6)]


@pytest.fixture(scope="module")
def evaluator(planted, frames):
    samples = [
        CalibrationSample(str(place), frame[0], None) for place, frame in enumerate(frames[4:])
    ]
    # without times: those of so small a network are noise
    return GraphEvaluator(planted, IMAGE, samples, frames[0], "tensorrt")


@pytest.fixture(scope="module")
def graphs(planted, frames):
    how = QuantizationScheme(quantizer="onnxruntime", whole_frame=True)
    return quantize_all_blocks(planted, frames[:4], "onnxruntime", how)


@pytest.fixture(scope="module")
def measured(graphs, evaluator):
    return measure_sensitivity(graphs, evaluator, begin_analysis("w", "c", "r"))


def test_blocks_are_those_of_the_module_tree_and_hold_every_pixelwise_convolution(planted):
    model = onnx.load(planted)
    blocks = {block.name: block for block in list_blocks(model)}
    assert {"exposure", "stem", "blocks.0.top", "blocks.0.bottom", "head"} <= set(blocks)
    assert blocks["exposure"].decides_frame
    assert not blocks["blocks.0.top"].decides_frame
    held = {node for one in blocks.values() if not one.decides_frame for node in one.convolutions}
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    assert held == convolutions - set(list_whole_frame_convs(model))


@pytest.mark.parametrize("name", ["mirnet", "mirnet-v2"])
def test_the_other_networks_have_blocks_too(name, graph_of):
    names = [block.name for block in list_blocks(onnx.load(graph_of(name)))]
    assert len(names) > 3
    assert len(names) == len(set(names))


def test_graphs_with_context_vectors_have_the_same_blocks():
    # two wrappers are around the network: of the frame and of its vectors
    model = onnx.load(find_bundle("shipped:denoise") / "fp32.onnx")
    names = {block.name for block in list_blocks(model)}
    assert {"stem", "blocks.0.top", "blocks.1.up_middle", "head"} <= names


def test_with_no_block_in_int8_the_graph_is_the_one_in_float(graphs, frames, evaluator):
    """NNCF shifts biases under their own names: what goes back to float must get its own."""
    shifted = copy.deepcopy(graphs.int8)
    for one in shifted.graph.initializer:
        if one.name.endswith(".bias"):
            values = onnx.numpy_helper.to_array(one) + np.float32(0.5)
            one.CopyFrom(onnx.numpy_helper.from_array(values, one.name))
    back = quantize_partly(shifted, graphs.fp32, ())
    assert not list_quantized_convolutions(back)
    assert not [node for node in back.graph.node if "Linear" in node.op_type]
    outputs = []
    for model in (back, graphs.fp32):
        import onnxruntime

        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        outputs.append(session.run(None, {"frames": frames[5]})[0])
    np.testing.assert_array_equal(*outputs)


def test_with_all_blocks_the_graph_is_the_quantizer_s(graphs):
    nodes = list_quantized_convolutions(graphs.int8)
    same = quantize_partly(graphs.int8, graphs.fp32, nodes)
    assert list_quantized_convolutions(same) == nodes


def test_a_name_that_is_no_quantized_convolution_is_refused(graphs):
    with pytest.raises(GraphError, match="'nothing' is not quantized"):
        quantize_partly(graphs.int8, graphs.fp32, ["nothing"])


def test_the_block_with_an_outlier_is_found_first(measured):
    worst = [one for one in measured.most_sensitive_first() if not one.decides_frame]
    assert worst[0].block == SENSITIVE
    assert worst[0].drop_db > 5 * max(abs(one.drop_db) for one in worst[1:])
    assert order_by_sensitivity(measured)[-1] == SENSITIVE


def test_every_block_has_its_error_by_darkness(measured):
    assert len(measured.blocks) > 3
    for one in measured.blocks:
        assert list(one.darkness_db) == ["dark", "middle", "bright"]
        assert one.saved_ms is None
        assert one.db_per_ms == one.drop_db


def test_a_backend_that_is_here_is_timed_against_fp32(planted, frames, graphs, tmp_path):
    samples = [CalibrationSample("one", frames[5][0], None)]
    evaluator = GraphEvaluator(planted, IMAGE, samples, frames[0], "onnxruntime", rounds=2)
    trial = evaluator.evaluate(graphs.write(["stem"], tmp_path / "stem.onnx"))
    assert trial.fp32_ms > 0.0
    assert trial.saved_ms == pytest.approx(trial.fp32_ms * (1.0 - trial.ratio))


def test_errors_are_told_apart_by_how_dark_the_pixel_should_be():
    expected = np.full((1, 2, 4, 3), 10, np.uint8)
    expected[:, :, 2:] = 200
    output = expected.copy()
    output[:, :, :2] += 5
    found = compare_by_darkness([output], [expected])
    assert found["dark"] == pytest.approx(-20 * np.log10(5 / 255))
    assert found["middle"] is None
    assert found["bright"] == 100.0


def test_a_stopped_run_goes_on_without_measuring_again(graphs, measured, tmp_path):
    file = tmp_path / "sensitivity.json"
    part = measured.model_copy(update={"blocks": measured.blocks[:-1]})
    file.write_text(part.model_dump_json())
    stages = []

    class Stopwatch:
        def evaluate(self, graph):
            assert list_quantized_convolutions(onnx.load(graph)) == graphs.blocks[-1].convolutions
            raise KeyboardInterrupt

    known = resume_analysis(file, begin_analysis("w", "c", "r"))
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(graphs, Stopwatch(), known, file, stages.append)
    assert len(stages) == 1
    assert resume_analysis(file, begin_analysis("w", "c", "r")).blocks == measured.blocks[:-1]


@dataclass(frozen=True)
class Other:
    id: str
    bound: tuple[str, str, str]
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Other("weights", ("other", "c", "r"), "other weights: expected other, found w"),
        Other("images", ("w", "other", "r"), "other calibration images"),
        Other("setup", ("w", "c", "other"), "other setup"),
    ],
    ids=lambda case: case.id,
)
def test_figures_of_something_else_are_refused(case, measured, tmp_path):
    file = tmp_path / "sensitivity.json"
    file.write_text(measured.model_dump_json())
    with pytest.raises(OptionError, match=case.says):
        resume_analysis(file, begin_analysis(*case.bound))


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "sensitivity.json"
    file.write_text('{"schema_version": 1')
    with pytest.raises(OptionError, match="delete it"):
        resume_analysis(file, begin_analysis("w", "c", "r"))


def test_the_chart_shows_each_block_with_its_accuracy_drop(measured):
    text = draw_sensitivity(measured).to_file().decode()
    for one in measured.blocks:
        assert one.block in text
        assert f">{one.drop_db:.4f}<" in text


def test_a_backend_that_is_none_is_refused():
    with pytest.raises(OptionError, match="--backend must be auto or one of"):
        choose_trial_backend("gpu")


def test_a_file_of_schema_1_is_resumed(measured, tmp_path):
    document = json.loads(measured.model_dump_json())
    document["schema_version"] = 1
    document["recipe"] = document.pop("setup")
    for block in document["blocks"]:
        block["loss_db"], block["won_ms"] = block.pop("drop_db"), block.pop("saved_ms")
    file = tmp_path / "sensitivity.json"
    file.write_text(json.dumps(document))
    fresh = begin_analysis(measured.weights_sha256, measured.calibration_sha256, measured.setup)
    assert resume_analysis(file, fresh) == measured


def test_the_quantizer_is_read_under_its_former_key():
    facts = QuantizationFacts(quantizer="nncf", float_blocks=[], float_nodes=[], reason="")
    document = json.loads(facts.model_dump_json())
    document["engine"] = document.pop("quantizer")
    assert QuantizationFacts.model_validate(document) == facts


# --- the search -------------------------------------------------------------------------------


def _readers_of_the_outlier(path, names):
    """Return the convolutions that read what the one with a weight of a thousand times gives."""
    graph = onnx.load(path).graph
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    convolutions = [node for node in graph.node if node.name in names]
    outlier = max(convolutions, key=lambda node: float(np.abs(weights[node.input[1]]).max()))
    followers = [node for node in graph.node if outlier.output[0] in node.input]
    given = {name for node in followers for name in node.output}
    return {node.name for node in convolutions if given & set(node.input)}


class EvaluatorWithoutNoise(GraphEvaluator):
    """Each convolution in INT8 saves the same; the backend's own times of a small graph vary."""

    def evaluate(self, graph, precision="int8"):
        found = super().evaluate(graph, precision)
        if not self.is_timed:
            return found
        return replace(found, fp32_ms=1.0, ratio=self._latency_of(graph))

    def time_beside(self, one, two, rounds):
        return [self._latency_of(one.path) / self._latency_of(two.path)] * rounds

    @staticmethod
    def _latency_of(graph):
        return 1.0 - 0.02 * len(list_quantized_convolutions(onnx.load(graph)))


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_the_search_leaves_what_is_sensitive_in_float(planted, frames, tmp_path, backend):
    samples = [
        CalibrationSample(str(place), frame[0], None) for place, frame in enumerate(frames[4:])
    ]
    evaluator = EvaluatorWithoutNoise(planted, IMAGE, samples, frames[0], backend, rounds=1)
    target = tmp_path / "int8.onnx"
    facts = search_graph(planted, target, frames[:4], evaluator, max_drop_db=0.3)
    quantized = set(list_quantized_convolutions(onnx.load(target)))
    assert quantized
    block = next(one for one in list_blocks(onnx.load(planted)) if one.name == SENSITIVE)
    # where the backend is timed, the block's other convolutions may be in INT8
    sensitive = _readers_of_the_outlier(planted, block.convolutions)
    assert sensitive
    assert quantized.isdisjoint(block.convolutions if backend == "tensorrt" else sensitive)
    assert sensitive <= set(facts.float_nodes)
    assert facts.quantizer in facts.reason
    assert evaluator.evaluate(target).drop_db <= 0.3
    # single convolutions are changed where the backend is timed; it is simulated for TensorRT
    assert bool(facts.placement) == (backend == "onnxruntime")
    assert ("which only the device can tell" in facts.reason) == (backend == "tensorrt")
    held = {node for one in list_blocks(onnx.load(planted)) if not one.decides_frame
            for node in one.convolutions}  # fmt: skip
    assert set(facts.float_nodes) == held - quantized


def _point(count, drop_db, ms, quantizer="nncf"):
    blocks = tuple(map(str, range(count)))
    return MixedPrecisionChoice(
        blocks, quantizer, "int8", drop_db, ms, None if ms is None else ms / 100
    )


LADDER = [
    _point(0, 0.0, 100.0), _point(1, 0.01, 90.0), _point(2, 0.05, 95.0), _point(3, 0.04, 60.0),
    _point(4, 0.2, 40.0),
]  # fmt: skip


def test_the_front_holds_what_nothing_beats():
    assert [len(one.blocks) for one in find_pareto_front(LADDER)] == [0, 1, 3, 4]


@dataclass(frozen=True)
class Choice:
    id: str
    drop: float
    fps: float | None
    blocks: int


@pytest.mark.parametrize(
    "case",
    [
        Choice("the fastest that passes", 0.1, None, 3),
        Choice("a wider limit", 0.3, None, 4),
        Choice("the least lossy that is fast enough", 0.3, 15.0, 3),
        Choice("never nothing", 0.0, None, 1),
    ],
    ids=lambda case: case.id,
)
def test_the_point_is_the_one_that_was_asked_for(case):
    assert len(choose_fastest_accepted(LADDER, case.drop, case.fps).blocks) == case.blocks


def test_a_rate_that_nothing_reaches_is_refused_with_the_fastest():
    with pytest.raises(OptionError, match=r"30 frames per second here; the fastest has 25\.0"):
        choose_fastest_accepted(LADDER, 0.1, 30.0)


def test_without_times_the_most_blocks_that_pass_are_taken():
    points = [_point(count, loss, None) for count, loss in ((0, 0.0), (1, 0.02), (2, 0.05))]
    points.append(_point(3, 2.0, None))
    assert len(choose_fastest_accepted(points, 0.1).blocks) == 2


def test_of_two_quantizers_the_one_that_loses_less_is_kept():
    one, two = _point(2, 0.05, 50.0), _point(2, 0.02, 55.0, "onnxruntime")
    assert choose_better(one, two, 0.1, None) is two
    assert choose_better(one, two, 0.1, 19.0) is one, "the other one is too slow"


def test_report_names_the_ranges_that_the_backends_graph_has():
    # these weights learned their ranges, which graphs for TensorRT do not get
    loaded = checkpoints.load("shipped:denoise")
    assert loaded.card.int8_ranges
    for_cpu = choose_scheme(loaded, "openvino")
    assert for_cpu.learned_ranges == loaded.card.int8_ranges
    assert for_cpu.whole_frame
    assert describe_ranges(for_cpu) == "learned ranges"
    assert describe_ranges(replace(for_cpu, learned_ranges={})) == "minmax without 0.0001"
    for_tensorrt = choose_scheme(loaded, "tensorrt")
    assert not for_tensorrt.learned_ranges
    assert not for_tensorrt.whole_frame
    assert describe_ranges(for_tensorrt) == "minmax"
