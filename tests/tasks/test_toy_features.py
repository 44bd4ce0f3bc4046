import json

import pytest
import torch

from mad import config as configs
from mad.errors import ConfigError, DataError
from mad.tasks import toy_features
from mad.tasks._base import COLUMNS
from mad.tasks._splits import MIXED


def part(rows, name):
    return rows.table[rows.table["part"] == name]


def features(rows, table):
    """(n, 2) in [0, 1]."""
    return rows.inputs[torch.tensor(table["source"].to_numpy())].flatten(1).double() / rows.scale


def told(rows, table):
    """(n, 2) the class that each feature tells, nearest centre."""
    return (features(rows, table) * len(rows.class_names)).long().clamp(max=len(rows.class_names) - 1)


@pytest.fixture(scope="module", params=[2, 5])
def rows(request):
    return toy_features.build(toy_features.Config(classes=request.param, noise=0.01), 0)


def test_table_follows_the_contract(rows):
    table = rows.table
    assert tuple(table.columns) == COLUMNS and table["id"].is_unique and not table["control"].any()
    assert (table["variant"] == -1).all() and rows.variants.shape == (0, 1, 1, 2)
    assert rows.inputs.shape == (3000, 1, 1, 2) and rows.inputs.dtype == torch.uint8
    assert table.loc[table["part"] != "trusted", "source"].is_unique
    sizes = {"train": 1600, "trusted": 1600, "calibration": 200, "untrusted": 200, "validation": 500, "test": 500}
    assert rows.facts["rows"] == sizes == table.groupby("part").size()[list(sizes)].to_dict()
    json.dumps(rows.facts, allow_nan=False)


def test_features_agree_on_the_class_where_a_model_or_detector_learns(rows):
    for name in ("train", "trusted", "calibration"):
        table = part(rows, name)
        labels = torch.tensor(table["label"].to_numpy())
        assert not table["is_anomalous"].any() and (told(rows, table) == labels[:, None]).all()


def test_anomalous_rows_disagree_and_have_the_label_of_the_first_feature(rows):
    for name in MIXED:
        table = part(rows, name)
        classes, labels = told(rows, table), torch.tensor(table["label"].to_numpy())
        anomalous = torch.tensor(table["is_anomalous"].to_numpy())
        assert (table["label"] == table["clean_label"]).all() and torch.equal(classes[:, 0], labels)
        assert torch.equal(classes[:, 1] != labels, anomalous)
    wrong = told(rows, table)[anomalous]
    assert len({tuple(pair) for pair in wrong.tolist()}) == len(rows.class_names) * (len(rows.class_names) - 1)


def test_noise_is_gaussian_about_the_centres_and_independent():
    rows = toy_features.build(toy_features.Config(train_rows=20000, noise=0.05), 0)
    table = part(rows, "train")
    centre = (torch.tensor(table["label"].to_numpy())[:, None] + 0.5) / 2
    rest = features(rows, table) - centre
    assert abs(rest.mean(0)).max() < 0.002 and abs(rest.std(0) - 0.05).max() < 0.001
    assert abs(torch.corrcoef(rest.T)[0, 1]) < 0.03
    exact = toy_features.build(toy_features.Config(noise=0.0), 0)
    assert set(exact.inputs.flatten().tolist()) == {64, 191}


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
def test_fractions_are_honoured(fraction):
    rows = toy_features.build(toy_features.Config(anomalous_fraction=fraction, trusted_fraction=0.5), 0)
    assert len(part(rows, "trusted")) == 800
    for name in MIXED:
        table = part(rows, name)
        assert int(table["is_anomalous"].sum()) == round(fraction * len(table)) and len(table) in (200, 500)


def test_the_seed_decides_and_the_config_seed_wins():
    first, second = (toy_features.build(toy_features.Config(), seed) for seed in (0, 1))
    assert not torch.equal(first.inputs, second.inputs)
    again = toy_features.build(toy_features.Config(seed=0), 1)
    assert torch.equal(first.inputs, again.inputs) and first.table.equals(again.table)


def test_a_row_does_not_depend_on_how_many_there_are():
    few, many = (toy_features.build(toy_features.Config(train_rows=n, anomalous_fraction=0.0), 0) for n in (500, 900))
    assert torch.equal(few.inputs[:500], many.inputs[:500])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_rows": 0}, "train_rows must be at least 1"),
        ({"test_rows": 0}, "test_rows must be at least 1"),
        ({"noise": -0.1}, "noise must not be negative"),
        ({"classes": 1}, r"classes must lie in 2\.\.128"),
        ({"anomalous_fraction": 1.5}, "anomalous_fraction must lie in"),
        ({"calibration_fraction": 0.5, "untrusted_fraction": 0.5}, "must be below 1"),
        ({"trigger": "corner"}, "unknown option 'trigger'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        configs.parse(toy_features.Config, options)


def test_too_few_rows():
    with pytest.raises(DataError, match="the part '.*' would"):
        toy_features.build(toy_features.Config(train_rows=3, test_rows=2), 0)


def test_a_model_is_trained_and_a_detector_fitted_on_it(engine, run):
    made = run(engine, "detect", {"task": "toy_features", "detector": "mahalanobis"})
    assert made["train"].summary["clean_accuracy"] > 0.99
    assert made["detect"].summary["auroc"] > 0.99 and made["detect"].summary["fpr95"] < 0.01
