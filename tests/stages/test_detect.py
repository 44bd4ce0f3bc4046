"""detect: scores per layer, one joint score, a threshold from held-out rows, figures that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from mad.context import Context
from mad.errors import ConfigError, DataError
from mad.stages import fit
from mad.stages._populations import batches
from mad.stages.detect import Config, Options, measure, write
from mad.stats.conformal import NORMAL_MAD


@pytest.fixture
def detect(world):
    """Detect with the shared detector and some settings."""
    return lambda **options: world.run(
        "detect",
        {f"detect.{name}": value for name, value in {"bootstrap": "0", **options}.items()},
        extract=world.features,
        fit=world.artifacts["fit"],
    )["detect"]


def parts(artifact, part: str = "test"):
    table = artifact.table("scores.parquet")
    return table[table["part"] == "calibration"], table[table["part"] == part]


def columns(table) -> list[str]:
    return [name for name in table.columns if name.startswith("score/")]


def test_scores_are_those_of_the_detector(world, detect):
    detector = fit.load_detector(world.artifacts["fit"])
    for part, rows in zip(("calibration", "test"), parts(detect()), strict=True):
        given = [detector.score(batch) for batch in batches(world.features, part, world.features.layers)]
        for layer in world.features.layers:
            assert np.array_equal(rows[f"score/{layer}"], np.concatenate([g[layer].numpy() for g in given]))
        start, stop = world.features.bounds(part)
        assert rows["id"].tolist() == world.features.rows["id"].iloc[start:stop].tolist()
        assert rows["is_anomalous"].tolist() == world.features.rows["is_anomalous"].iloc[start:stop].tolist()


@pytest.mark.parametrize("part", ["test", "validation"])
def test_figures_are_those_of_scikit_learn(detect, part):
    artifact = detect(part=part)
    _, rows = parts(artifact, part)
    figures = artifact.json("metrics.json")["metrics"]
    assert set(figures) == {"score", *columns(rows)}
    for name, values in figures.items():
        assert values["auroc"] == pytest.approx(roc_auc_score(rows["is_anomalous"], rows[name]))
        assert values["ap"] == pytest.approx(average_precision_score(rows["is_anomalous"], rows[name]))
    assert artifact.summary["auroc"] == figures["score"]["auroc"] and artifact.summary["part"] == part


@pytest.mark.parametrize("how", ["mean", "max", "rank"])
@pytest.mark.parametrize("standardize", ["true", "false"])
def test_layers_are_joined_as_asked(detect, how, standardize):
    trusted, rows = parts(detect(aggregation=how, standardize=standardize))
    table = []
    for name in columns(rows):
        held, values = trusted[name].to_numpy(), rows[name].to_numpy()
        if how == "rank":
            at_least = (held[None, :] >= values[:, None]).sum(axis=1)
            table.append(1 - (1 + at_least) / (1 + len(held)))
        elif standardize == "true":
            center = np.median(held)
            table.append((values - center) / (NORMAL_MAD * np.median(np.abs(held - center))))
        else:
            table.append(values)
    joint = np.max(table, axis=0) if how == "max" else np.mean(table, axis=0)
    assert rows["score"].to_numpy() == pytest.approx(joint, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2, 0.5])
def test_the_threshold_flags_no_more_than_its_share_of_trusted_rows(detect, rate):
    artifact = detect(false_positive_rate=str(rate))
    trusted, rows = parts(artifact)
    told = artifact.json("metrics.json")["threshold"]
    cut = told["score"]
    assert told["trusted_rows"] == len(trusted) and told["false_positive_rate"] == rate
    assert (trusted["score"] > cut).mean() <= rate
    lower = trusted["score"][trusted["score"] < cut].max()
    assert (trusted["score"] > lower).mean() > rate - 1 / len(trusted), "no lower threshold would do as well"
    anomalous = rows["is_anomalous"]
    assert told["realized_false_positive_rate"] == pytest.approx((rows["score"][~anomalous] > cut).mean())
    assert told["true_positive_rate"] == pytest.approx((rows["score"][anomalous] > cut).mean())


def test_only_the_layers_asked_for(detect):
    one = detect(layers="[layers.1*]")
    _, rows = parts(one)
    assert columns(rows) == ["score/layers.1.output"]
    _, everything = parts(detect())
    assert columns(everything) == ["score/layers.0.output", "score/layers.1.output"]
    with pytest.raises(ConfigError, match=r"no extracted layer matches 'layers\.7\*' \(choose from: layers\.0\.output"):
        detect(layers="[layers.7*]")


def test_intervals_hold_the_figures(detect):
    assert detect(bootstrap="0").json("metrics.json")["intervals"] == {}
    artifact = detect(bootstrap="200")
    told = artifact.json("metrics.json")
    assert set(told["intervals"]) == set(told["metrics"])
    for name, limits in told["intervals"].items():
        for figure in ("auroc", "ap"):
            assert limits[figure][0] <= told["metrics"][name][figure] <= limits[figure][1]
        assert limits["auroc_delong"][0] <= told["metrics"][name]["auroc"] <= limits["auroc_delong"][1]


def test_rows_of_one_kind_cannot_be_measured(world):
    for fraction, kind in (("0", "normal"), ("1", "anomalous")):
        flags = {"task.anomalous_fraction": fraction, "detect.bootstrap": "0"}
        with pytest.raises(DataError, match=f"^all [0-9]+ rows are {kind}: both kinds are needed$"):
            world.run("detect", flags, fit=world.artifacts["fit"])


def test_scores_are_the_same_again(world, engine, run):
    again = run(engine, "detect", {})["detect"]
    assert again.key == world.artifacts["detect"].key
    assert again.meta["files"] == world.artifacts["detect"].meta["files"]


def test_the_detector_is_told(detect):
    assert detect().summary["detector"]["name"] == "mahalanobis"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"false_positive_rate": "0"}, "detect: false_positive_rate must be between 0 and 1, got 0.0"),
        ({"bootstrap": "-1"}, "detect: bootstrap must be 0 or more, got -1"),
        ({"part": "train"}, "--detect.part: expected 'validation'"),
        ({"aggregation": "median"}, "--detect.aggregation: expected 'mean'"),
    ],
)
def test_mistakes_are_told(detect, options, said):
    with pytest.raises(ConfigError) as error:
        detect(**options)
    assert str(error.value).startswith(said)


def test_controls_are_scored_and_measured_apart(detect):
    artifact = detect(bootstrap="20")
    table, told = artifact.table("scores.parquet"), artifact.json("metrics.json")
    rows, cut = table[table["part"] == "test"], told["threshold"]["score"]
    controls = table[table["part"] == "control"]
    assert set(told["controls"]) == set(controls["control"]) and len(told["controls"]) > 1
    assert set(table["control"][table["part"] != "control"]) == {""}
    anomalous, clean = rows["score"][rows["is_anomalous"]], rows["score"][~rows["is_anomalous"]]
    for kind, found in told["controls"].items():
        mine = controls["score"][controls["control"] == kind]
        assert found["rows"] == len(mine)
        against = roc_auc_score([1] * len(anomalous) + [0] * len(mine), [*anomalous, *mine])
        novelty = roc_auc_score([1] * len(mine) + [0] * len(clean), [*mine, *clean])
        assert found["auroc_anomalous_against_control"] == pytest.approx(against)
        assert found["auroc_control_against_clean"] == pytest.approx(novelty)
        assert found["flagged"] == pytest.approx((mine > cut).mean())
        low, high = found["auroc_anomalous_against_control_delong"]
        assert low <= against <= high
        assert artifact.summary[f"control_{kind}_auroc"] == found["auroc_anomalous_against_control"]
        assert artifact.summary[f"control_{kind}_flagged"] == found["flagged"]


def test_controls_change_no_other_figure(detect):
    options = Options(bootstrap=20)
    table = detect(bootstrap="20").table("scores.parquet")
    without = table[table["part"] != "control"].drop(columns="control").reset_index(drop=True)
    figures, plain = measure(table, options, 0), measure(without, options, 0)
    assert figures.pop("controls") and "controls" not in plain
    assert figures == plain


def test_only_test_rows_have_controls(detect):
    artifact = detect(part="validation")
    assert set(artifact.table("scores.parquet")["part"]) == {"calibration", "validation"}
    assert "controls" not in artifact.json("metrics.json")


def test_the_ends_of_intervals_are_logged(world, detect):
    for part, prefix in (("test", ""), ("validation", "val_")):
        artifact = detect(bootstrap="20", part=part)
        context = Context(draft=world.engine.store.draft(f"logged-{part}"), launcher=None)
        told = artifact.json("metrics.json")
        write(artifact.table("scores.parquet"), told, Config(Options(part=part)), context)
        for name in ("auroc", "ap", "fpr95"):
            limits = [context.metrics[f"{prefix}{name}_{end}"] for end in ("low", "high")]
            assert limits == told["intervals"]["score"][name]
        assert f"{prefix}auroc_delong_low" not in context.metrics
        assert ("control_noise_auroc" in context.metrics) == (part == "test")
