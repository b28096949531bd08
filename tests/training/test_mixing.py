"""Training sets of several sources: shares, scenes kept back, exposure series."""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge.errors import DataError
from mirnet_edge.training.batches import BatchSampling, sample_batch
from mirnet_edge.training.listing import list_pairs
from mirnet_edge.training.mixing import main, parse_source, write_burst_pairs, write_mix
from mirnet_edge.training.pairs import load_pairs, mix_pairs


def scene(seed, size=(48, 64)):
    small = np.random.default_rng(seed).integers(60, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def write(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path)


@pytest.fixture
def photos(tmp_path):
    for number in range(11):
        write(tmp_path / f"photos/p{number:02d}.png", scene(number))
    return tmp_path / "photos"


@pytest.fixture
def dark_pairs(tmp_path):
    folder = tmp_path / "dark"
    for number in range(11):
        write(folder / f"low/s{number:02d}.png", scene(number) // 8)
        write(folder / f"high/s{number:02d}.png", scene(number))
    return folder


def rows_of(folder):
    with (folder / "pairs.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def weights_by_source(folder):
    found = defaultdict(float)
    for row in rows_of(folder):
        if row["split"] == "train":
            kind = "daylight" if row["low"] == row["high"] else row["low"].rsplit("/", 2)[1]
            found[kind] += float(row["weight"])
    return found


def test_each_source_has_its_share_and_validation_stays_out(tmp_path, photos, dark_pairs):
    texts = [f"pairs:0.5:{dark_pairs}", f"camera:0.2:{photos}", f"daylight:0.2:{photos}",
             f"darkened:0.1:{photos}"]  # fmt: skip
    write_mix([parse_source(text) for text in texts], tmp_path / "mix", variants=2)
    found = weights_by_source(tmp_path / "mix")
    assert found == pytest.approx(
        {"low": 0.5, "camera-1": 0.2, "daylight": 0.2, "darkened-3": 0.1}, rel=1e-4
    )
    train = [row for row in rows_of(tmp_path / "mix") if row["split"] == "train"]
    # of eleven, the first and the last validate
    for row in train:
        assert not row["high"].endswith(("s00.png", "s10.png", "p00.png", "p10.png"))
    assert len(train) == 9 + 2 * 9 + 9 + 2 * 9
    validation = [row for row in rows_of(tmp_path / "mix") if row["split"] == "val"]
    assert {row["scene"] for row in validation} == {"s00", "s10"}


def test_clean_images_are_degraded_anew_at_every_step_beside_real_pairs(
    tmp_path, photos, dark_pairs
):
    texts = [f"pairs:0.25:{dark_pairs}", f"clean:0.75:{photos}"]
    write(photos / "p05.png", scene(5) // 10)  # night photos too
    write_mix([parse_source(text) for text in texts], tmp_path / "mix")
    listing = list_pairs(tmp_path / "mix")
    assert len(listing.train) == 9 + 9
    assert all(pair.degraded is not None for pair in listing.val)
    inverted = load_pairs(listing.train, degrade=lambda frame, _: 255 - frame)
    batch = sample_batch(inverted, BatchSampling(size=400, crop=16, multiple=8), seed=0, step=0)
    is_clean = [
        torch.allclose(one, 1.0 - two, atol=1e-6)
        for one, two in zip(batch.degraded, batch.target, strict=True)
    ]
    assert np.mean(is_clean) == pytest.approx(0.75, abs=0.07)
    others = [
        float((one - two / 8).abs().max())
        for one, two, clean in zip(batch.degraded, batch.target, is_clean, strict=True)
        if not clean
    ]
    assert max(others) < 1 / 255


def test_images_are_matched_by_the_endings_of_their_names(tmp_path):
    for name in ("desk_1", "desk_2", "toy_1", "bad"):
        write(tmp_path / f"all/{name}_real.png", scene(1) // 2)
        write(tmp_path / f"all/{name}_mean.png", scene(1))
    options = ["--low", "_real", "--high", "_mean", "--hold-out", "^toy", "--leave-out", "^bad$"]
    main(["match", str(tmp_path / "all"), *options, "--out", str(tmp_path / "pairs")])
    listing = list_pairs(tmp_path / "pairs")
    assert [pair.scene for pair in listing.train] == ["desk_1", "desk_2"]
    assert [pair.scene for pair in listing.val] == ["toy_1"]
    assert listing.train[0].degraded.name == "desk_1_real.png"
    assert listing.train[0].target.name == "desk_1_mean.png"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--low", "_noisy"], "for each name with '_noisy' at its end one with '_mean', found 2"),
        (["--low", "_x", "--high", "_y"], "found none"),
        (["--hold-out", "nothing"], "leaves no pair that validates"),
        (["--hold-out", "desk"], "leaves no pair that trains"),
        (["--hold-out", "(desk"], r"expected a regular expression, found '\(desk'"),
    ],
    ids=str,
)
def test_names_that_do_not_match_are_refused(tmp_path, options, says):
    for name in ("desk_1", "desk_2"):
        write(tmp_path / f"all/{name}_real.png", scene(1) // 2)
        write(tmp_path / f"all/{name}_mean.png", scene(1))
    usual = ["--low", "_real", "--high", "_mean", "--hold-out", "desk_1"]
    with pytest.raises(SystemExit, match=says):
        main(["match", str(tmp_path / "all"), *usual, *options, "--out", str(tmp_path / "pairs")])
    assert not (tmp_path / "pairs").exists()


def test_darkened_images_are_those_of_the_photo_in_every_mix(tmp_path, photos, dark_pairs):
    def darkened(name, *texts):
        write_mix([parse_source(text) for text in texts], tmp_path / name, variants=1)
        file = next((tmp_path / name).glob("camera-*/p03-0.png"))
        return np.asarray(Image.open(file))

    one = darkened("one", f"pairs:1:{dark_pairs}", f"camera:1:{photos}")
    two = darkened("two", f"camera:2:{photos}", f"pairs:1:{dark_pairs}")
    assert np.array_equal(one, two)
    assert one.mean() < scene(3).mean()


def test_every_third_darkened_image_can_be_noisier(tmp_path, photos, dark_pairs):
    flat = np.full((64, 64, 3), 160, np.uint8)
    write(photos / "p03.png", flat)

    def noise(name, factor):
        main(
            [
                "mix",
                "--source",
                f"pairs:1:{dark_pairs}",
                "--source",
                f"camera:1:{photos}",
                "--variants",
                "3",
                "--noise",
                str(factor),
                "--out",
                str(tmp_path / name),
            ]
        )
        return [
            np.diff(np.asarray(Image.open(file)).astype(float)).std()
            for file in sorted((tmp_path / name).glob("camera-1/p03-*.png"))
        ]

    usual, noisy = noise("usual", 1.0), noise("noisy", 10.0)
    assert noisy[:2] == usual[:2]
    assert noisy[2] > 1.5 * usual[2]


def test_validation_pairs_of_another_table_are_left_out(tmp_path, dark_pairs):
    table = dark_pairs / "twins.csv"
    table.write_text("low,high,scene,split\nlow/s04.png,high/s04.png,x,val\n")
    source = parse_source(f"pairs:1:{dark_pairs}")
    write_mix([source], tmp_path / "mix", left_out=[table])
    train = {row["scene"] for row in rows_of(tmp_path / "mix") if row["split"] == "train"}
    assert train == {f"s{number:02d}" for number in (1, 2, 3, 5, 6, 7, 8, 9)}


def test_night_photos_are_neither_darkened_nor_kept(tmp_path, photos, dark_pairs):
    write(photos / "p05.png", scene(5) // 10)
    texts = [f"pairs:1:{dark_pairs}", f"camera:1:{photos}", f"daylight:1:{photos}"]
    write_mix([parse_source(text) for text in texts], tmp_path / "mix", variants=1)
    assert not any(row["high"].endswith("p05.png") for row in rows_of(tmp_path / "mix"))


def test_scenes_of_exposure_series_are_found_again(tmp_path):
    number = 0
    for place, exposures in enumerate([(0.1, 0.4, 1.0), (0.2, 0.9), (0.05, 0.3, 0.8, 1.2)] * 4):
        for exposure in exposures:
            number += 1
            frame = np.clip(scene(place) * exposure * 0.7, 0, 255).astype(np.uint8)
            write(tmp_path / f"series/{number}.png", frame)
    write_burst_pairs(tmp_path / "series", tmp_path / "bursts")
    listing = list_pairs(tmp_path / "bursts")
    assert {pair.scene for pair in listing.val} == {"burst-0", "burst-10"}
    assert len({pair.scene for pair in (*listing.train, *listing.val)}) == 12
    for pair in listing.train:
        low, high = (np.asarray(Image.open(file)) for file in (pair.degraded, pair.target))
        assert low.mean() < 0.8 * high.mean()
        ranks = [np.argsort(np.argsort(one.mean(2), axis=None)) for one in (low, high)]
        assert np.corrcoef(*ranks)[0, 1] > 0.8


def test_a_pair_is_sampled_by_its_weight(tmp_path, dark_pairs):
    rows = ["low,high,scene,split,weight", "low/s00.png,high/s00.png,0,val,1"]
    rows += [f"low/s{n:02d}.png,high/s{n:02d}.png,{n},train,{100 if n == 7 else 1}"
             for n in range(1, 10)]  # fmt: skip
    (dark_pairs / "pairs.csv").write_text("\n".join(rows))
    pairs = load_pairs(list_pairs(dark_pairs).train)
    drawn = pairs.sample_indices(np.random.default_rng(0), 2000)
    assert np.mean([pairs.names[index] == "s07" for index in drawn]) == pytest.approx(
        100 / 108, abs=0.02
    )
    batch = sample_batch(pairs, BatchSampling(size=8, crop=None, multiple=16), seed=0, step=0)
    heavy = np.float32(scene(7) / 255.0).mean()
    near = [abs(float(one.mean()) - heavy) < 1e-3 for one in batch.target]
    assert np.mean(near) >= 0.5
    assert pairs.sha256 != load_pairs([*list_pairs(dark_pairs).train][:3]).sha256


def test_two_weighted_sets_make_up_half_each(make_pairs, tmp_path, dark_pairs):
    light, heavy = make_pairs(2), make_pairs(6)
    object.__setattr__(heavy, "weights", (5.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    mixed = mix_pairs(light, heavy)
    assert len(mixed) == 8
    assert mixed.weights[:2] == (0.5, 0.5)
    assert mixed.weights[2:] == pytest.approx((0.5, 0.1, 0.1, 0.1, 0.1, 0.1))


@pytest.mark.parametrize("weight", ["0", "-1", "heavy", "inf"])
def test_a_weight_that_is_no_positive_number_is_refused(dark_pairs, weight):
    (dark_pairs / "pairs.csv").write_text(
        f"low,high,scene,split,weight\nlow/s00.png,high/s00.png,0,val,{weight}\n"
    )
    with pytest.raises(DataError, match=f"weight '{weight}'"):
        list_pairs(dark_pairs)


@pytest.mark.parametrize("text", ["pairs:0:lol", "pairs:lol", "night:0.5:lol", "camera:0.5:"])
def test_a_source_that_is_not_written_so_is_refused(text):
    with pytest.raises(DataError, match="expected KIND:SHARE:FOLDER"):
        parse_source(text)


def test_a_mix_without_pairs_is_refused(tmp_path, photos):
    with pytest.raises(SystemExit, match="kind pairs"):
        main(["mix", "--source", f"camera:1:{photos}", "--out", str(tmp_path / "mix")])
