"""Model cards: what they say, what goes along, and what `--check` finds of a damaged download."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from mirnet_edge.cli.card import main
from mirnet_edge.errors import BundleError, OptionError
from mirnet_edge.export.model_card import GOLDEN, check_golden, write_model_card
from mirnet_edge.files import sha256_of
from mirnet_edge.manifest import read_manifest
from mirnet_edge.runtime.shipped import find_bundle

_SHIPPED = "shipped:low-light"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Return the folder of a shipped bundle's card."""
    out = tmp_path_factory.mktemp("hub") / "card"
    write_model_card(find_bundle(_SHIPPED), out)
    return out


@pytest.fixture
def downloaded(hub, tmp_path):
    """Return a copy of it, to damage."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for file in hub.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_the_card_begins_with_what_the_hub_reads(hub):
    text = (hub / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    lines = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    assert lines["license"] == '"apache-2.0"'
    assert lines["pipeline_tag"] == "image-to-image"
    assert '- "low-light"' in head
    assert body.strip().startswith("# ")


def test_the_card_says_what_the_manifest_says(hub):
    text = (hub / "README.md").read_text(encoding="utf-8")
    manifest = read_manifest(hub)
    for one in manifest.configurations:
        assert f"`{one.name}`" in text
        assert f"{one.latency.p50_ms:.1f} (p95 {one.latency.p95_ms:.1f})" in text
        if not one.accepted:
            assert one.reason in text
    assert manifest.machine.processor in text
    for entry in re.findall(r"`(\w[\w-]*\.onnx)` \| ([\d,]+) \| `(\w{64})`", text):
        name, size, digest = entry
        assert sha256_of(hub / name) == digest
        assert (hub / name).stat().st_size == int(size.replace(",", ""))
    assert text.count(".onnx` |") == sum(one.kept for one in manifest.graphs)


def test_the_folder_opens_and_restores_what_the_golden_frames_say(hub):
    with np.load(hub / GOLDEN) as golden:
        assert {one.shape for one in golden.values()} == {(1, 64, 96, 3), (1, 90, 61, 3)}
        assert all(one.dtype == np.uint8 for one in golden.values())
        assert np.abs(golden["output_0"].astype(int) - golden["input_0"]).mean() > 10
    found = check_golden(hub, "onnxruntime", "fp32")
    assert found.is_met
    assert set(found.found_db) == {"input_0", "input_1"}


def test_outputs_that_differ_are_found_and_end_with_exit_code_3(downloaded, capsys):
    with np.load(downloaded / GOLDEN) as golden:
        arrays = dict(golden)
    arrays["output_1"] = arrays["output_1"] ^ np.uint8(4)
    np.savez(downloaded / GOLDEN, **arrays)
    with pytest.raises(SystemExit) as left:
        main([str(downloaded), "--check", "--json"])
    assert left.value.code == 3
    document = json.loads(capsys.readouterr().out)
    assert not document["met"]
    assert document["db"]["input_1"] < 40
    with pytest.raises(SystemExit):
        main([str(downloaded), "--check"])
    assert "onnxruntime:fp32: differs: expected 50 dB" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["absent", "cut", "empty"])
def test_a_folder_without_golden_outputs_is_refused(damage, downloaded):
    file = downloaded / GOLDEN
    if damage == "absent":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:40])
    else:
        np.savez(file, input_0=np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(BundleError, match=r"golden\.npz"):
        check_golden(downloaded)


def test_a_graph_that_was_uploaded_wrongly_is_refused_by_its_sha256(downloaded):
    graph = downloaded / "fp32.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="has changed since the export"):
        check_golden(downloaded, "onnxruntime", "fp32")


def test_a_bundle_of_yours_has_its_terms_and_no_license_but_the_one_you_give(
    make_bundle, make_mode, tmp_path
):
    bundle = make_bundle(modes=[make_mode("onnxruntime:fp32", p50_ms=1.0)])
    out = tmp_path / "hub"
    write_model_card(bundle, out)
    assert 'license: "other"' in (out / "README.md").read_text()
    write_model_card(bundle, out, license_name="mit", title="My camera at night")
    text = (out / "README.md").read_text()
    assert 'license: "mit"' in text
    assert "# My camera at night" in text


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OptionError, match="holds files that are no model card"):
        write_model_card(find_bundle(_SHIPPED), tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_the_command_writes_or_checks(tmp_path, capsys):
    for typed in ([_SHIPPED], [_SHIPPED, "--check", "--out", str(tmp_path / "x")]):
        with pytest.raises(SystemExit) as left:
            main(typed)
        assert left.value.code == 2
        assert "expected --out FOLDER to write a card, or --check" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main([_SHIPPED, "--out", str(tmp_path / "hub")])
    assert left.value.code == 0
    assert "golden.npz" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / "hub"), "--check"])
    assert left.value.code == 0
    assert "onnxruntime:fp32: as where it was made" in capsys.readouterr().out
