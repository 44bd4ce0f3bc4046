"""Records of what stages make: read as the right type, mapped into memory, never unpickled."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file

from mad.artifacts import AnomalyScores, Artifact, Checkpoint, Features, FittedDetector, Report, Split, read_tensors
from mad.errors import ArtifactError, ConfigError


def test_every_stage_has_its_record(world):
    kinds = {"prepare": Split, "train": Checkpoint, "extract": Features, "fit": FittedDetector}
    kinds |= {"detect": AnomalyScores, "report": Report}
    assert {a.meta["stage"]: type(a) for a in world.artifacts.values()} == kinds
    assert all(kind.stage == name for name, kind in kinds.items())
    assert world.artifacts["attack"] is world.split  # handed on: a backdoor has no rows to attack


def test_meta_data_say_where_it_comes_from(world):
    for artifact in world.artifacts.values():
        meta, name = artifact.meta, artifact.meta["stage"]
        assert artifact.key.startswith(f"{name}-") and meta["seconds"] >= 0 and meta["versions"]["torch"]
        assert set(meta["files"]) | {"meta.json"} == {file.name for file in artifact.folder.iterdir()}
        assert meta["lineage"][name]["key"] == artifact.key and meta["lineage"][name]["config"] == meta["config"]
        for parent in meta["inputs"].values():
            assert parent in {entry["key"] for entry in meta["lineage"].values()}


def test_an_unknown_stage_is_a_plain_artifact(tmp_path):
    meta = {"key": "x-1", "stage": "x", "config": {}, "inputs": {}, "files": {}, "summary": {}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert type(Artifact.read(tmp_path)) is Artifact


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_what_is_no_artifact_is_told(tmp_path, text):
    if text is not None:
        (tmp_path / "meta.json").write_text(text)
    with pytest.raises(ArtifactError, match="is not an artifact"):
        Artifact.read(tmp_path)


def test_tensors_are_mapped_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1000)}, path)
    mapped = read_tensors(path)["x"]
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(torch.ones(1).numpy().tobytes())
    assert mapped[-1] == 1


@pytest.mark.parametrize("body", [b"", b"PK\x03\x04 a zip archive", b"\x80\x02a pickle"])
def test_what_is_no_safetensors_is_told(tmp_path, body):
    path = tmp_path / "x.safetensors"
    path.write_bytes(body)
    with pytest.raises(ArtifactError, match="cannot read"):
        read_tensors(path)
    with pytest.raises(ArtifactError, match="cannot read"):
        read_tensors(tmp_path / "absent")


def test_a_split_shows_its_images(world):
    split = world.split
    assert split.input_shape == (1, 8, 8) and split.class_names == [str(n) for n in range(10)]
    rows = split.part("test")
    anomalous = split.column("is_anomalous", rows)
    source = split.column("source", rows)
    plain, shown = split.inputs(source).float() / 16, split.images(rows)
    assert shown.dtype == torch.float32 and shown.min() >= 0 and shown.max() <= 1
    assert torch.equal(shown[~anomalous], plain[~anomalous])
    assert anomalous.any() and (shown[anomalous] != plain[anomalous]).flatten(1).any(dim=1).all()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    assert torch.equal(split.images(rows[order]), shown[order]) and len(split.images(rows[:0])) == 0


def test_absent_parts_are_told(world):
    with pytest.raises(ConfigError, match=r"no rows in part 'tset' \(did you mean test\?\)"):
        world.split.part("tset")
    with pytest.raises(ConfigError, match=r"no features of part 'train'"):
        world.features.bounds("train")


def test_features_are_in_the_order_of_their_rows(world):
    features = world.features
    assert features.layers == ["layers.0.output", "layers.1.output"]
    assert sum(len(chunk["logits"]) for chunk in features.chunks) == len(features.rows) == features.summary["rows"]
    covered = sorted(features.bounds(part) for part in set(features.rows["part"]))
    assert covered[0][0] == 0 and covered[-1][1] == len(features.rows)
    assert all(before[1] == after[0] for before, after in pairwise(covered))
