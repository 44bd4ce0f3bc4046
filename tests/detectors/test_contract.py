"""What every detector must do. A new file in mad/detectors is tested here without an edit.

Each detector runs with its defaults, and once more for every other value of each of its bool and Literal
options.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mad import config, registry
from mad.detectors._base import Detector, Population
from mad.errors import ConfigError, FitError
from mad.stats.roc import auroc
from tests.detectors.worlds import World, cut, take, with_features, world

ROOT = Path(__file__).parents[2]
GIVEN = {"features", "logits"}  # what a batch of the made-up world can hold


def variants(name: str) -> dict[str, dict]:
    """Options by case name: the defaults, and each other value of each closed option that is legal alone."""
    cls = registry.load("detectors", name).Config
    hints, found = typing.get_type_hints(cls), {name: {}}
    for field in dataclasses.fields(cls):
        choices = [True, False] if hints[field.name] is bool else _literals(hints[field.name])
        for value in choices:
            if value == field.default:
                continue
            try:
                config.parse(cls, {field.name: value})
            except ConfigError:
                continue
            found[f"{name}-{field.name}-{value}"] = {field.name: value}
    return found


def _literals(hint) -> list:
    if typing.get_origin(hint) is typing.Literal:
        return list(typing.get_args(hint))
    return [v for part in typing.get_args(hint) for v in _literals(part)]


CASES = {case: (n, data) for n in registry.names("detectors") for case, data in variants(n).items()}


def make(case: str) -> Detector:
    name, data = CASES[case]
    module = registry.load("detectors", name)
    detector = module.Detector(config.parse(module.Config, data))
    if detector.supervised or not detector.needs <= GIVEN:
        pytest.skip(f"{name} needs {sorted(detector.needs - GIVEN) or 'anomaly labels'}")
    return detector


def fitted(case: str, given: World, size: int | None = None) -> Detector:
    detector = make(case)
    detector.fit(given.populations(size), seed=3)
    return detector


def assert_close(found: dict, wanted: dict, relative: float = 1e-10) -> None:
    assert found.keys() == wanted.keys()
    for layer, scores in wanted.items():
        scale = scores.abs().max()
        assert scale > 0
        assert (found[layer] - scores).abs().max() <= relative * scale, layer


@pytest.fixture(scope="module")
def flat() -> World:
    return world()


@pytest.fixture(scope="module")
def rescored(flat, tmp_path_factory) -> Path:
    """Every detector saved, and its scores from one fresh process."""
    folder = tmp_path_factory.mktemp("detectors")
    batch = {f"h/{layer}": h for layer, h in flat.test.features.items()} | {"logits": flat.test.logits}
    save_file(batch, folder / "batch.safetensors")
    cases = {}
    for case, (name, data) in CASES.items():
        try:
            detector = fitted(case, flat)
        except pytest.skip.Exception:
            continue
        save_file(detector.state, folder / f"{case}.state")
        cases[case] = (name, {**config.to_data(detector.config), **data})
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, str(ROOT / "tests/detectors/rescore.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_module_is_a_case():
    assert {"mahalanobis", "spectral", "que", "knn", "vae"} <= {name for name, _ in CASES.values()}
    assert "mahalanobis-relative-diagonal" in CASES and "mahalanobis-shrinkage-ledoit_wolf" in CASES


@pytest.mark.parametrize("case", CASES)
def test_saved_state_scores_alike_in_a_new_process(case, flat, rescored):
    assert_close(load_file(rescored / f"{case}.scores"), fitted(case, flat).score(flat.test), 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_scores_are_finite_float64_per_row(case, flat):
    for scores in fitted(case, flat).score(flat.test).values():
        assert scores.shape == (150,) and scores.dtype == torch.float64 and torch.isfinite(scores).all()


@pytest.mark.parametrize("case", CASES)
def test_planted_anomalies_score_higher(case, flat):
    for layer, scores in fitted(case, flat).score(flat.test).items():
        assert auroc(scores, flat.is_anomalous) > 0.8, layer


@pytest.mark.parametrize("case", CASES)
def test_fit_does_not_depend_on_chunking(case, flat):
    assert_close(fitted(case, flat, size=7).score(flat.test), fitted(case, flat).score(flat.test))


@pytest.mark.parametrize("case", CASES)
def test_fit_does_not_depend_on_row_order(case, flat):
    if make(case).trains_in_epochs:
        pytest.skip("trained by gradient steps, in an order drawn from the seed")
    mixed = dataclasses.replace(
        flat,
        trusted=take(flat.trusted, _order(300)),
        untrusted=take(flat.untrusted, _order(240)),
    )
    assert_close(fitted(case, mixed).score(flat.test), fitted(case, flat).score(flat.test))


def _order(n: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", CASES)
def test_a_score_does_not_depend_on_its_batch(case, flat):
    detector = fitted(case, flat)
    parts = [detector.score(b) for b in cut(flat.test, 1)[:20] + cut(take(flat.test, slice(20, None)), 33)]
    whole = detector.score(flat.test)
    assert_close({layer: torch.cat([p[layer] for p in parts]) for layer in whole}, whole)


@pytest.mark.parametrize("case", CASES)
def test_same_seed_same_scores(case, flat):
    torch.manual_seed(1)
    first = fitted(case, flat).score(flat.test)
    torch.manual_seed(2)  # the global stream must play no part
    again = fitted(case, flat).score(flat.test)
    assert all(torch.equal(first[layer], again[layer]) for layer in first)


@pytest.mark.parametrize("case", CASES)
def test_features_are_left_as_they_were(case):
    given, kept = world(dtype=torch.float64), world(dtype=torch.float64)
    fitted(case, given).score(given.test)
    for part in ("trusted", "untrusted", "test"):
        for layer, h in getattr(kept, part).features.items():
            assert torch.equal(getattr(given, part).features[layer], h), (part, layer)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_features_score_as_the_same_values_in_float32(case):
    half = world(dtype=torch.bfloat16)
    full = dataclasses.replace(
        half,
        **{p: with_features(getattr(half, p), torch.Tensor.float) for p in ("trusted", "untrusted", "test")},
    )
    assert_close(fitted(case, half).score(half.test), fitted(case, full).score(full.test))


@pytest.mark.parametrize("case", CASES)
def test_padded_positions_do_not_matter(case):
    given = world(positions=4)

    def spoil(batch):
        garbage = lambda h: h.masked_fill(~batch.mask[..., None], float("nan"))  # noqa: E731
        return with_features(batch, garbage)

    spoilt = dataclasses.replace(given, **{p: spoil(getattr(given, p)) for p in ("trusted", "untrusted", "test")})
    scores = fitted(case, given).score(given.test)
    assert_close(fitted(case, spoilt).score(spoilt.test), scores)
    assert all(len(s) == 150 for s in scores.values())


@pytest.mark.parametrize("case", CASES)
def test_one_position_is_the_same_as_none(case, flat):
    upright = dataclasses.replace(
        flat,
        **{p: with_features(getattr(flat, p), lambda h: h[:, None]) for p in ("trusted", "untrusted", "test")},
    )
    assert_close(fitted(case, upright).score(upright.test), fitted(case, flat).score(flat.test))


@pytest.mark.parametrize("case", CASES)
def test_unusable_input_is_told_in_one_line(case, flat):
    detector, empty = fitted(case, flat), make(case)
    spoilt = with_features(flat.test, lambda h: h.index_fill_(0, torch.tensor([4]), float("nan")))
    wide = with_features(flat.test, lambda h: torch.cat([h, h], dim=1))
    with pytest.raises(FitError, match="not fitted") as unfitted:
        empty.score(flat.test)
    with pytest.raises(FitError, match="NaN") as nan:
        detector.score(spoilt)
    with pytest.raises(FitError, match="width") as width:
        detector.score(wide)
    with pytest.raises(FitError, match="at least") as one:
        empty.fit({name: Population(cut(take(p, slice(1)), None), name) for name, p in _parts(flat)}, seed=0)
    with pytest.raises(FitError, match="NaN") as fit_nan:
        empty.fit({name: Population([spoilt], name) for name, _ in _parts(flat)}, seed=0)
    with pytest.raises(FitError, match="at least") as none:
        empty.fit({}, seed=0)
    for error in (unfitted, nan, width, one, fit_nan, none):
        assert "\n" not in str(error.value)


def _parts(given: World):
    return [("trusted", given.trusted), ("untrusted", given.untrusted)]


@pytest.mark.parametrize("case", CASES)
def test_epochs_are_reported_with_states_that_score(case, flat):
    detector, seen = make(case), []
    detector.fit(flat.populations(), seed=3, report=lambda epoch, state: seen.append((epoch, state)))
    if not detector.trains_in_epochs:
        assert not seen
        return
    assert [epoch for epoch, _ in seen] == list(range(1, len(seen) + 1)) and seen
    first = type(detector)(detector.config, seen[0][1]).score(flat.test)
    last = type(detector)(detector.config, seen[-1][1]).score(flat.test)
    final = detector.score(flat.test)
    assert all(torch.equal(last[layer], final[layer]) for layer in final)
    assert all(not torch.equal(first[layer], final[layer]) for layer in final)  # a copy, not the live weights


@pytest.mark.parametrize("name", registry.names("detectors"))
def test_unknown_option_is_an_error(name):
    with pytest.raises(ConfigError, match="unknown option 'no_such_option'"):
        config.parse(registry.load("detectors", name).Config, {"no_such_option": 1})


@pytest.mark.parametrize("name", registry.names("detectors"))
def test_module_is_documented_and_declares_its_needs(name):
    module = registry.load("detectors", name)
    assert inspect.getdoc(module) and inspect.getdoc(module.Detector)
    assert all(option.help for option in config.describe(module.Config, {}))
    assert dataclasses.is_dataclass(module.Config) and module.Config.__dataclass_params__.frozen
    assert set(module.Detector.fits_on) <= {"trusted", "untrusted"} and module.Detector.fits_on
    assert module.Detector.needs <= {"features", "logits", "head", "model"}
