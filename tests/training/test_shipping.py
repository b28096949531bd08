"""Making shipped weights: dead channels, and the page of a model card."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mirnet_edge import checkpoints
from mirnet_edge.checkpoints import ModelCard
from mirnet_edge.files import sha256_of
from mirnet_edge.models.edge import MIRNetEdge, MIRNetEdgeConfig
from mirnet_edge.training.shipping import FOLDER, main, ship_weights


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ["low,high,scene,split"]
    for number in range(6):
        pixels = np.random.default_rng(number).integers(90, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{number}.png,{number},{'val' if number < 2 else 'train'}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_dead_channels_are_silenced_and_the_card_says_so(photos, tmp_path):
    torch.manual_seed(0)
    network = MIRNetEdge(MIRNetEdgeConfig(channels=(16, 16, 16), exposure_channels=4, light=True))
    with torch.no_grad():
        network.blocks[0].middle.body[0].bias[:8] = -100.0
    given, out = tmp_path / "given.safetensors", tmp_path / "out.safetensors"
    checkpoints.save(network, given, ModelCard(task="low-light", note="old"))
    main(["silence", str(given), "--images", str(photos), "--out", str(out)])
    found = checkpoints.load(out)
    assert not found.model.blocks[0].middle.body[0].weight[:8].any()
    assert found.model.blocks[0].middle.body[0].weight[8:].any()
    assert found.card.note.startswith("old; channels that never fire on ")
    assert "8 in blocks.0.middle.body" in found.card.note


def test_the_card_says_which_fraction_was_silenced(photos, tmp_path):
    torch.manual_seed(0)
    network = MIRNetEdge(MIRNetEdgeConfig(channels=(16, 16, 16), exposure_channels=4, light=True))
    given, out = tmp_path / "given.safetensors", tmp_path / "out.safetensors"
    checkpoints.save(network, given, ModelCard(task="low-light"))
    main(["silence", str(given), "--images", str(photos), "--out", str(out), "--fraction", "0.9"])
    found = checkpoints.load(out)
    zero = ~found.model.blocks[0].middle.body[0].weight.flatten(1).any(1)
    assert int(zero.sum()) == 8
    assert found.card.note.startswith("channels that contribute least (0.9 of a layer) on ")
    assert "8 in blocks.0.middle.body" in found.card.note


def test_rounded_weights_are_nearly_the_same_and_compress_to_less(tmp_path):
    torch.manual_seed(0)
    network = MIRNetEdge(MIRNetEdgeConfig(channels=(16, 16, 16), exposure_channels=4, light=True))
    with torch.no_grad():
        network.blocks[0].middle.body[0].bias[:3] = torch.tensor([0.0, 1e-30, -3e5])
    given, out = tmp_path / "given.safetensors", tmp_path / "out.safetensors"
    checkpoints.save(network, given, ModelCard(task="low-light", note="kept"))
    main(["round", str(given), "--out", str(out)])
    found = checkpoints.load(out)
    assert found.card.note == "kept; weights rounded to 10 significant bits"
    pairs = list(zip(network.parameters(), found.model.parameters(), strict=True))
    for before, after in pairs:
        torch.testing.assert_close(after, before, rtol=2.0**-10, atol=0.0)
    assert any(not torch.equal(before, after) for before, after in pairs)
    sizes = [len(zlib.compress(path.read_bytes(), 6)) for path in (given, out)]
    assert sizes[1] < 0.75 * sizes[0]
    main(["round", str(given), "--bits", "14", "--out", str(out)])
    found = checkpoints.load(out)
    assert found.card.note.endswith("rounded to 14 significant bits")
    for before, after in zip(network.parameters(), found.model.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=2.0**-14, atol=0.0)


def test_a_file_that_is_too_large_is_not_shipped(tmp_path):
    path = tmp_path / "large.safetensors"
    path.write_bytes(bytes(5 * 2**20))
    with pytest.raises(SystemExit, match="expected at most 4 MiB"):
        main(["ship", str(path)])


def test_the_page_of_shipped_weights_is_made_of_their_card(tmp_path):
    shipped = FOLDER / "low-light.safetensors"
    path = ship_weights(shipped, "copy", tmp_path)
    assert path.read_bytes() == shipped.read_bytes()
    page = path.with_suffix(".md").read_text()
    assert page.startswith("# copy.safetensors\n")
    assert sha256_of(shipped) in page
    assert f"{shipped.stat().st_size:,} bytes" in page
