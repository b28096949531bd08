"""Training recipes: the package's are consistent, old ones are read, wrong values are refused."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import groupby

import pytest
import torch

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints.families import FAMILIES
from mirnet_edge.errors import OptionError
from mirnet_edge.training.job import FINE_TUNING
from mirnet_edge.training.recipe import (
    FORMER_FIELDS,
    PRESETS,
    TrainingRecipe,
    count_plateaus,
    list_recipes,
    read_recipe,
    recipe_from_values,
)
from mirnet_edge.training.tasks import TASKS


def _written(folder, text):
    path = folder / "own.toml"
    path.write_text(f"schema_version = 1\n{text}")
    return str(path)


def _model(found):
    (family,) = (family for family in FAMILIES if family.name == found.architecture)
    with torch.device("meta"):
        return family.network(family.config(**found.network))


def test_each_task_the_paper_and_fine_tuning_have_a_recipe():
    assert {*(task.name for task in TASKS), *PRESETS, FINE_TUNING} <= set(list_recipes())


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_is_valid(name):
    found = read_recipe(name)
    for run in range(1, len(found.runs) + 1) if found.runs else [None]:
        training = found.training_of(run)
        recipe = recipe_from_values(training, name)
        for key, value in training.items():
            stated = tuple(value) if isinstance(value, list) else value
            assert getattr(recipe, key) == stated


@pytest.mark.parametrize("name", [one for one in list_recipes() if one.startswith("shipped-")])
def test_the_recipe_of_shipped_weights_has_their_network(name):
    shipped = checkpoints.load(f"shipped:{name.removeprefix('shipped-')}").model
    assert _model(read_recipe(name)).config == shipped.config


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_network_takes_the_crops_of_its_recipe(name):
    found = read_recipe(name)
    if found.architecture is None:
        assert not found.network
        return
    model = _model(found)
    for crop_at in recipe_from_values(found.training, name).crops:
        assert crop_at % (model.multiple * getattr(model.config, "scale", 1)) == 0


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_s_recipe_makes_a_network_of_its_scale(task):
    assert _model(read_recipe(task.name)).config.scale == task.scale


def test_the_paper_s_recipe_has_nothing_that_the_paper_has_not():
    assert read_recipe("paper") == read_recipe("mirnet")  # its former name
    recipe = recipe_from_values(read_recipe("mirnet").training, "mirnet")
    assert recipe.pixel_loss == "charbonnier"
    assert {recipe.crop_at(step) for step in range(0, recipe.steps, 100)} == {128}
    assert {recipe.learning_rate_at(step) for step in range(0, recipe.steps, 100)} == {1e-4}
    for name in (
        "weight_decay", "ema_decay", "gradient_clipping", "ssim_weight", "edge_weight",
        "mixup", "frequency_weight", "well_lit_fraction", "exposure_jitter", "noise_jitter",
        "exposure_steps",
    ):  # fmt: skip
        assert getattr(recipe, name) == 0


def test_the_seed_trains_as_the_keras_example():
    found = read_recipe("seed")
    assert (found.architecture, found.network) == ("keras-mirnet", {"variant": "2021"})
    recipe = recipe_from_values(found.training, "seed")
    assert (recipe.pixel_loss, recipe.batch, recipe.crops) == ("charbonnier", 4, (128,))
    assert recipe.steps == 50 * recipe.validate_every == 50 * 300 // 4
    risen = [10.0, 11.0, 12.0]
    assert recipe.learning_rate_at(0) == recipe.learning_rate_at(3000, risen) == 1e-4
    assert recipe.learning_rate_at(3000, [*risen, *[12.0] * 4]) == 1e-4
    assert recipe.learning_rate_at(3000, [*risen, *[12.0] * 5]) == 5e-5
    assert recipe.learning_rate_at(3000, [*risen, *[12.0] * 10]) == 2.5e-5


def test_the_second_mirnet_learns_on_ever_larger_crops():
    found = read_recipe("mirnet-v2")
    recipe = recipe_from_values(found.training, "mirnet-v2")
    seen = [(recipe.crop_at(step), recipe.batch_size_at(step)) for step in range(recipe.steps)]
    # the options that the authors published: iterations by crop, and batches of 8 GPUs
    for crop, steps, batch in (
        (128, 46_000, 64), (160, 32_000, 40), (192, 24_000, 32), (256, 18_000, 16),
        (320, 18_000, 8), (384, 12_000, 8),
    ):  # fmt: skip
        assert sum(one[0] == crop for one in seen) == steps
        assert {one[1] for one in seen if one[0] == crop} <= set(range(batch - 5, batch + 3))


@pytest.mark.parametrize(
    ("psnr_db", "plateaus"),
    [((), 0), ((1, 1, 1), 1), ((1, 2, 2, 1), 1), ((2, 1, 3, 1, 1), 1), ((3, 1, 1, 1, 1), 2)],
)
def test_a_plateau_is_some_validations_without_a_new_best(psnr_db, plateaus):
    assert count_plateaus(psnr_db, 2) == plateaus


def test_a_recipe_file_is_read(tmp_path):
    text = 'architecture = "mirnet"\n[network]\nchannels = 8\n[training]\nsteps = 3\nema = 0\n'
    found = read_recipe(_written(tmp_path, text))
    assert (found.architecture, found.network) == ("mirnet", {"channels": 8})
    recipe = recipe_from_values(found.training, "own")
    assert (recipe.steps, recipe.ema_decay, recipe.batch) == (3, 0, TrainingRecipe().batch)


def test_a_recipe_takes_the_network_of_another(tmp_path):
    found = read_recipe(_written(tmp_path, 'network_of = "mirnet-v2"\n[training]\nsteps = 3\n'))
    other = read_recipe("mirnet-v2")
    assert (found.architecture, found.network) == (other.architecture, other.network)
    assert found.training == {"steps": 3}
    deep = read_recipe(_written(tmp_path, 'network_of = "shipped-denoise"\n'))
    assert deep.network == read_recipe("denoise").network


@dataclass(frozen=True)
class Refused:
    id: str
    text: str
    says: str


FILES = [
    Refused("unknown table", "[trainin]\n", r"own\.toml: trainin: .*expected the keys schema_ver"),
    Refused(
        "unknown key", "[training]\nstep = 3\n", r"own\.toml: \[training\] has unknown fields step;"
    ),
    Refused(
        "unknown network", 'architecture = "unet"\n', r"own\.toml: architecture: .*'mirnet-v2'"
    ),
    Refused("two networks", 'network_of = "mirnet"\n[network]\nchannels = 8\n', "excludes network"),
    Refused("network of a file", 'network_of = "own.toml"\n', "'own.toml'; expected one of den"),
    Refused("no table", "training = 3\n", r"own\.toml: training: .*dictionary"),
    Refused("bad TOML", "steps = = 3\n", r"own\.toml is not TOML: .*line 2"),
]


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.id)
def test_wrong_recipe_files_are_refused_by_name(tmp_path, case):
    with pytest.raises(OptionError, match=case.says):
        read_recipe(_written(tmp_path, case.text))


def test_fields_of_schema_1_are_read_under_their_present_names(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(
        "schema_version = 1\n[training]\nlit_share = 0.25\nexposure_range = 0.5\nema = 0.9\n"
        "extra_noise = 4.0\ngradient_norm = 1.0\nanchor_weight = 0.1\nmonochrome_share = 0.3\n"
        'capture_share = 0.2\ndistance = "l1"\nexposure_copies = 7\nexposure_learns = false\n'
        "scales_weight = 0.4\nstructure_weight = 0.6\nwarmup = 9\nwhole_batch = 3\n"
        "whole_share = 0.7\n"
    )
    recipe = recipe_from_values(read_recipe(str(path)).training, str(path))
    assert recipe == TrainingRecipe(
        well_lit_fraction=0.25, exposure_jitter=0.5, ema_decay=0.9, noise_jitter=4.0,
        gradient_clipping=1.0, l2_sp_weight=0.1, monochrome_fraction=0.3,
        capture_noise_fraction=0.2, pixel_loss="l1", exposure_samples_per_image=7,
        exposure_trainable=False, ms_ssim_weight=0.4, ssim_weight=0.6, warmup_steps=9,
        whole_frame_batch=3, whole_frame_fraction=0.7,
    )  # fmt: skip
    names = {one.name for one in fields(TrainingRecipe)}
    assert set(FORMER_FIELDS.values()) <= names
    assert not set(FORMER_FIELDS) & names


def test_another_schema_bytes_and_absent_files_are_refused_by_name(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("schema_version = 3\n")
    with pytest.raises(OptionError, match=r"own\.toml: schema_version"):
        read_recipe(str(path))
    path.write_text("")
    with pytest.raises(OptionError, match=r"own\.toml: schema_version: Field required"):
        read_recipe(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match=r"own\.toml is not TOML"):
        read_recipe(str(path))
    for name in ("fog", str(tmp_path / "absent.toml"), str(tmp_path)):
        with pytest.raises(
            OptionError, match=f"there is no recipe {name}; .* denoise, .*low-light"
        ):
            read_recipe(name)


@dataclass(frozen=True)
class Value:
    id: str
    values: dict = field(default_factory=dict)


TYPES = [
    Value("text for a number", {"steps": "many"}),
    Value("yes for a number", {"batch": True}),
    Value("fraction for a count", {"steps": 2.5}),
    Value("number for a list", {"crops": 128}),
    Value("fractions in a list", {"crops": [64.5]}),
    Value("number for a name", {"pixel_loss": 1}),
    Value("list for a number", {"ema_decay": [0.9]}),
]


@pytest.mark.parametrize("case", TYPES, ids=lambda case: case.id)
def test_values_of_another_type_are_refused_by_name(case):
    (name,) = case.values
    with pytest.raises(OptionError, match=rf"own\.toml: {name} must be of type .*, found "):
        recipe_from_values(case.values, "own.toml")


ABSURD = [
    Value("no steps", {"steps": 0}),
    Value("no images", {"batch": 0}),
    Value("no frames", {"whole_frame_batch": 0}),
    Value("never validated", {"validate_every": 0}),
    Value("no thumbnails", {"exposure_batch": 0}),
    Value("no crops", {"crops": ()}),
    Value("crops smaller than a window", {"crops": (64, 10)}),
    Value("more than all frames", {"whole_frame_fraction": 1.5}),
    Value("less than none mixed", {"mixup": -0.1}),
    Value("more than all well lit", {"well_lit_fraction": 2.0}),
    Value("more than the teacher", {"teacher_weight": 1.01}),
    Value("a fraction that is no number", {"mixup": float("nan")}),
    Value("an EMA that never changes", {"ema_decay": 1.0}),
    Value("only gray images", {"monochrome_fraction": 1.0}),
    Value("more than all with capture noise", {"capture_noise_fraction": 1.1}),
    Value("negative warm-up", {"warmup_steps": -1}),
    Value("negative decay", {"weight_decay": -1e-4}),
    Value("negative clipping", {"gradient_clipping": -1.0}),
    Value("negative loss", {"ssim_weight": -0.1}),
    Value("negative edges", {"edge_weight": -0.1}),
    Value("infinite frequencies", {"frequency_weight": float("inf")}),
    Value("an L2-SP weight that is no number", {"l2_sp_weight": float("nan")}),
    Value("negative stops", {"exposure_jitter": -0.5}),
    Value("negative noise", {"noise_jitter": -1.0}),
    Value("negative first stage", {"exposure_steps": -1}),
    Value("an unknown schedule", {"schedule": "linear"}),
    Value("an unknown loss", {"pixel_loss": "l2"}),
    Value("an unknown optimizer", {"optimizer": "sgd"}),
    Value("an unknown target of INT8", {"qat_target": "npu"}),
    Value("a negative seed", {"seed": -1}),
    Value("an infinite learning rate", {"exposure_learning_rate": float("inf")}),
    Value("a learning rate of zero", {"learning_rate": 0.0}),
    Value("a first-stage learning rate of zero", {"exposure_learning_rate": 0.0}),
    Value("a learning rate that is no number", {"learning_rate": float("nan")}),
]


@pytest.mark.parametrize("case", ABSURD, ids=lambda case: case.id)
def test_values_outside_their_range_are_refused_by_name(case):
    (name,) = case.values
    with pytest.raises(OptionError, match=f"^{name} must .*, found "):
        TrainingRecipe(**case.values)


def test_crops_have_equal_fractions_of_the_steps_before_whole_frames():
    recipe = TrainingRecipe(steps=100, crops=(32, 48, 64), whole_frame_fraction=0.1)
    runs = [
        (crop_at, len(list(steps))) for crop_at, steps in groupby(map(recipe.crop_at, range(100)))
    ]
    assert runs == [(32, 30), (48, 30), (64, 30), (None, 10)]


@pytest.mark.parametrize(("share", "crops"), [(0.0, {32}), (1.0, {None})])
def test_all_or_none_of_the_steps_see_whole_frames(share, crops):
    recipe = TrainingRecipe(steps=7, crops=(32,), whole_frame_fraction=share)
    assert {recipe.crop_at(step) for step in range(7)} == crops


def test_larger_crops_come_in_smaller_batches_of_as_many_pixels():
    recipe = TrainingRecipe(
        steps=100, crops=(32, 64, 96), batch=36, whole_frame_fraction=0.1, whole_frame_batch=3
    )
    found = {recipe.crop_at(step): recipe.batch_size_at(step) for step in range(100)}
    assert found == {32: 36, 64: 9, 96: 4, None: 3}


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_a_batch_is_a_multiple_of_the_processes_and_never_empty(processes):
    recipe = TrainingRecipe(
        steps=100, crops=(32, 64, 192), batch=12, whole_frame_fraction=0.1, whole_frame_batch=1
    )
    found = [recipe.batch_size_at(step, processes) for step in range(100)]
    assert all(size % processes == 0 for size in found)
    assert min(found) == processes
    assert found[0] == pytest.approx(12, abs=processes)


def test_the_learning_rate_warms_up_and_decays_to_a_thousandth():
    recipe = TrainingRecipe(steps=100, warmup_steps=10, learning_rate=2.0)
    rates = [recipe.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2, rel=0.01)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == pytest.approx(2.0, rel=0.03)
    assert rates[50] == pytest.approx(1.0, rel=0.01)
    assert rates[-1] == pytest.approx(0.002, rel=0.3)


def test_a_constant_learning_rate_warms_up_and_stays():
    recipe = TrainingRecipe(steps=100, warmup_steps=4, learning_rate=2.0, schedule="constant")
    assert [recipe.learning_rate_at(step) for step in range(5)] == pytest.approx(
        [0.5, 1.0, 1.5, 2.0, 2.0]
    )
    assert {recipe.learning_rate_at(step) for step in range(4, 100)} == {2.0}


def test_without_warm_up_the_first_step_has_the_peak_learning_rate():
    assert TrainingRecipe(warmup_steps=0, learning_rate=2.0).learning_rate_at(0) == 2.0


def test_regions_of_colors_fit_into_the_smallest_crop():
    assert TrainingRecipe(crops=(64, 48), color_region=48).color_region == 48
    with pytest.raises(OptionError, match="found 48 and crops of 32"):
        TrainingRecipe(crops=(64, 32), color_region=48)
