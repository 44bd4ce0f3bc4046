"""Plug-ins are found by name: shipped, installed elsewhere, or any importable module."""

from __future__ import annotations

import sys

import pytest

from mad import registry
from mad.config import to_data
from mad.errors import ConfigError
from mad.stages._base import load_stage

DETECTOR = '''"""Length of the features."""

from dataclasses import dataclass

import torch

from mad import LayerwiseDetector


@dataclass(frozen=True)
class Config:
    """Nothing but a factor."""

    factor: float = 1.0
    """by which lengths are multiplied"""


class Detector(LayerwiseDetector):
    """Norm of each row."""

    def fit_layer(self, layer, populations, seed):
        return {"factor": torch.tensor(self.config.factor)}

    def score_layer(self, state, h, classes):
        return h.double().norm(dim=1) * state["factor"]
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder on the path that holds a module ``frame_norm`` and the package ``frame_pack.inner``."""
    folder = tmp_path / "outside"
    (folder / "frame_pack").mkdir(parents=True)
    (folder / "frame_norm.py").write_text(DETECTOR)
    (folder / "frame_pack" / "__init__.py").write_text("")
    (folder / "frame_pack" / "inner.py").write_text(DETECTOR)
    (folder / "frame_broken.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [n for n in sys.modules if n.startswith("frame_")]:
        del sys.modules[name]


@pytest.fixture
def installed(outside):
    info = outside / "frame_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: frame-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mad.detectors]\nlength = frame_norm\nknn = frame_norm\n")
    registry._entries_on.cache_clear()
    yield
    registry._entries_on.cache_clear()


def test_shipped_plugins_are_listed_without_private_modules():
    assert {"knn", "mahalanobis", "spectral", "que"} <= set(registry.names("detectors"))
    assert "backdoor" in registry.names("tasks") and "corner" in registry.names("triggers")
    assert not [n for kind in registry.FOLDERS for n in registry.names(kind) if n.startswith("_") or n == "triggers"]


@pytest.mark.parametrize("kind", registry.FOLDERS)
def test_names_lead_back(kind):
    for name in registry.names(kind):
        module = registry.load(kind, name)
        assert registry.name_of(kind, module.__name__) == name and hasattr(module, "Config")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mahalanobiss", "unknown detector 'mahalanobiss' (did you mean mahalanobis?)"),
        ("", "unknown detector ''"),
        ("_base", "unknown detector '_base'"),
        ("os", "unknown detector 'os'"),
        (".knn", "unknown detector '.knn'"),
        ("a/b", "unknown detector 'a/b'"),
        ("mad.detectors._base", "unknown detector 'mad.detectors._base'"),
        ("no_such_package.detector", "unknown detector 'no_such_package.detector'"),
    ],
)
def test_unknown_names_are_told(name, said):
    with pytest.raises(ConfigError, match="unknown detector") as error:
        registry.load("detectors", name)
    assert str(error.value).startswith(said)


def test_a_broken_plugin_is_not_called_unknown(outside):
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        registry.load("detectors", "frame_broken")


@pytest.mark.parametrize("name", ["frame_norm", "frame_pack.inner"])
def test_a_module_on_the_path_works_in_a_chain(name, outside, world):
    flags = {"detector": name, "detector.factor": "2"}
    found = world.run("detect", flags, extract=world.features)
    assert found["fit"].summary["detector"] == {"name": name, "factor": 2.0}
    plain = world.run("detect", {"detector": name}, extract=world.features)
    assert plain["fit"].key != found["fit"].key
    ratio = (
        found["detect"].table("scores.parquet")["score/layers.0.output"]
        / plain["detect"].table("scores.parquet")["score/layers.0.output"]
    )
    assert ratio.between(1.999999, 2.000001).all()
    # The name leads back from the artifact alone, as on another day.
    again = world.run("detect", {}, extract=world.features, fit=found["fit"])
    assert again["detect"].key == found["detect"].key


def test_an_entry_point_is_a_name(installed, world):
    assert "length" in registry.names("detectors")
    found = world.run("fit", {"detector": "length"}, extract=world.features)["fit"]
    assert found.summary["detector"]["name"] == "length"
    assert to_data(registry.load("detectors", "length").Config(), "detectors")["name"] == "length"


def test_an_entry_point_takes_no_shipped_name(installed):
    assert registry.load("detectors", "knn").__name__ == "mad.detectors.knn"


def test_stages_are_plugins_too():
    assert load_stage("detect").inputs == {"features": "extract", "fitted": "fit"}
    with pytest.raises(ConfigError, match=r"unknown stage 'detekt' \(did you mean detect\?\)"):
        load_stage("detekt")
