"""fit: the right rows, the right seed, a state that is all a detector needs, and refusals in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mad import registry
from mad.artifacts import Artifact
from mad.errors import ConfigError, FitError, MadError
from mad.stages import fit
from mad.stages._populations import batches


def spoiled(world, part: str, value: float, folder: Path) -> Artifact:
    """The shared features with one value of one row of a part replaced."""
    shutil.copytree(world.features.folder, folder)
    start, _ = world.features.bounds(part)
    chunk = folder / "chunk-00000.safetensors"
    tensors = load_file(chunk)
    tensors["layers.1.output"][start + 2, 5] = value
    save_file(tensors, chunk)
    meta = json.loads((folder / "meta.json").read_text())
    meta["key"] = f"{meta['key'][:-1]}{'0' if meta['key'][-1] != '0' else '1'}"
    (folder / "meta.json").write_text(json.dumps(meta))
    return Artifact.read(folder)


@pytest.mark.parametrize("name", registry.names("detectors"))
def test_a_detector_scores_after_loading_as_it_did_before(world, name):
    flags = {"detector": name}
    flags |= {"detector.epochs": "1"} if hasattr(registry.load("detectors", name).Config, "epochs") else {}
    artifact = world.run("fit", flags, extract=world.features)["fit"]
    config = fit.Config(registry.load("detectors", name).Config(**({"epochs": 1} if len(flags) > 1 else {})))
    direct = fit.fit(config, fit.populations(world.features, fit.new_detector(config.detector)))
    loaded = fit.load_detector(artifact)
    assert set(loaded.state) == set(direct.state) and set(artifact.meta["files"]) == {"state.safetensors"}
    for batch in batches(world.features, "test", world.features.layers):
        for layer, scores in direct.score(batch).items():
            # Not to the last bit: kernels differ with the alignment of tensors that are mapped from a file.
            assert torch.allclose(loaded.score(batch)[layer], scores, rtol=1e-6, atol=1e-9)
    assert artifact.summary["detector"]["name"] == name
    assert artifact.summary["fits_on"] == list(direct.fits_on)


def test_populations_are_the_parts_of_those_names(world):
    for name in ("trusted", "untrusted"):
        found = fit.population(world.features, name)
        start, stop = world.features.bounds(name)
        assert len(found) == stop - start and found.name == name and found.layers == world.features.layers
        rows = torch.cat([chunk["layers.0.output"] for chunk in world.features.chunks])[start:stop]
        assert torch.equal(torch.cat(list(found.rows("layers.0.output"))), rows)


def test_small_chunks_fit_the_same_detector(world):
    small = world.run("extract", {"extract.chunk_rows": "50"}, prepare=world.split, train=world.checkpoint)["extract"]
    states = [world.run("fit", {}, extract=e)["fit"].tensors("state.safetensors") for e in (world.features, small)]
    for name, value in states[0].items():
        assert torch.allclose(states[1][name], value, rtol=1e-6, atol=1e-6)


def test_the_root_seed_decides_what_a_detector_draws(world):
    def weights(seed: str) -> list[bytes]:
        flags = {"detector": "vae", "detector.epochs": "1", "seed": seed}
        found = world.run("fit", flags, extract=world.features)["fit"].tensors("state.safetensors")
        return [value.numpy().tobytes() for value in found.values()]

    assert weights("1") == weights("1") != weights("2")


def test_a_detector_that_needs_logits_says_so(world):
    without = world.run("extract", {"extract.logits": "false"}, prepare=world.split, train=world.checkpoint)["extract"]
    with pytest.raises(FitError, match=r"trusted rows carry no logits: extract with --extract.logits true"):
        world.run("fit", {"detector.class_conditional": "true"}, extract=without)


def test_rows_that_are_not_there_are_told(world):
    only = world.run("extract", {"extract.parts": "[test]"}, prepare=world.split, train=world.checkpoint)["extract"]
    with pytest.raises(ConfigError, match="no features of part 'trusted'"):
        world.run("fit", {}, extract=only)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", registry.names("detectors"))
def test_features_that_are_not_finite_are_one_line(world, tmp_path, name, value):
    needed = registry.load("detectors", name).Detector.fits_on[0]
    features = spoiled(world, needed, value, tmp_path / "spoiled")
    with pytest.raises(MadError, match=r"layers\.1\.output.* 1 NaN or infinite value") as error:
        world.run("fit", {"detector": name}, extract=features)
    assert "\n" not in str(error.value)


def test_rows_that_are_not_finite_cannot_be_scored(world, tmp_path):
    features = spoiled(world, "test", float("nan"), tmp_path / "spoiled")
    with pytest.raises(MadError, match=r"features of layer 'layers\.1\.output' hold 1 NaN or infinite values"):
        world.run("detect", {}, extract=features, fit=world.artifacts["fit"])
