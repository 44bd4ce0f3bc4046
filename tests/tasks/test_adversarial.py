import json

import pytest
import torch

from mad import config as configs
from mad.errors import ConfigError, DataError
from mad.tasks import adversarial, backdoor, toy_features
from mad.tasks._base import COLUMNS, PARTS
from tests.tasks.layouts import write_mnist

MIXED = ("untrusted", "validation", "test")


def part(rows, name):
    return rows.table[rows.table["part"] == name]


@pytest.fixture(scope="module")
def rows():
    return adversarial.build(adversarial.Config(), 0)


def test_only_this_task_is_to_be_attacked():
    assert adversarial.ATTACKED is True
    assert not any(hasattr(task, "ATTACKED") for task in (backdoor, toy_features))


def test_table_follows_the_contract(rows):
    table = rows.table
    assert tuple(table.columns) == COLUMNS and table["part"].drop_duplicates().tolist() == list(PARTS)
    assert table["id"].is_unique and len(rows.inputs) == 1797
    own = table[table["control"] == ""]
    assert (own["variant"] == -1).all() and (own["label"] == own["clean_label"]).all()
    assert len(rows.variants) == (table["control"] != "").sum()
    json.dumps(rows.facts, allow_nan=False)


def test_the_model_and_the_detectors_learn_from_clean_rows(rows):
    for name in ("train", "trusted", "calibration"):
        assert len(part(rows, name)) and not part(rows, name)["is_anomalous"].any()
    train, trusted = part(rows, "train"), part(rows, "trusted")
    assert set(train["source"]) == set(trusted["source"]), "a trusted_fraction of 1 trusts every train row"
    fewer = adversarial.build(adversarial.Config(trusted_fraction=0.25), 0)
    assert len(part(fewer, "trusted")) == round(0.25 * len(train))


def test_no_image_is_in_two_parts(rows):
    assert rows.table.loc[~rows.table["part"].isin(["trusted", "control"]), "source"].is_unique
    assert rows.facts["unused_rows"] == 0


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_fraction_asked_for_is_marked_and_no_row_is_wasted(fraction):
    """The old code ignored the weight, and divided by zero at 0 and 1."""
    rows = adversarial.build(adversarial.Config(anomalous_fraction=fraction), 0)
    for name, size in (("untrusted", 126), ("validation", 270), ("test", 269)):
        table = part(rows, name)
        assert len(table) == size and int(table["is_anomalous"].sum()) == round(fraction * size)
        assert rows.facts["anomalous_rows"][name] == table["is_anomalous"].sum()


def test_rows_to_attack_are_of_every_class_and_in_no_telling_place(rows):
    for name in MIXED:
        table = part(rows, name)
        marked = table.loc[table["is_anomalous"], "clean_label"].value_counts(normalize=True)
        assert len(marked) == 10 and abs(marked - 0.1).max() < 0.06
        flags = torch.tensor(table["is_anomalous"].to_numpy()).double()
        places = torch.arange(len(flags)).double()
        assert abs(torch.corrcoef(torch.stack([flags, places]))[0, 1]) < 0.25


def test_the_seed_decides_and_the_config_seed_wins(rows):
    again = adversarial.build(adversarial.Config(seed=0), 1)
    assert again.table.equals(rows.table) and torch.equal(again.variants, rows.variants)
    other = adversarial.build(adversarial.Config(), 1)
    assert set(part(other, "test")["source"]) != set(part(rows, "test")["source"])


def test_official_parts_classes_and_subsets(tmp_path):
    root = str(write_mnist(tmp_path, 1000, 400))
    config = adversarial.Config(dataset="mnist", root=root, classes=[7, 1, 3], max_rows=300)
    rows = adversarial.build(config, 0)
    assert rows.class_names == ("7", "1", "3") and len(rows.inputs) == 300
    table = rows.table[rows.table["control"] != "dataset"]
    from_test = table["id"].str[-6:].astype(int) >= 1000
    assert (from_test == table["part"].isin(["validation", "test", "control"])).all()
    assert adversarial.digest(config) == adversarial.digest(adversarial.Config(dataset="mnist", root=root))


def test_options_are_those_of_the_backdoor_task_without_the_trigger():
    names = {o.name for o in configs.describe(backdoor.Config, {}) if not o.name.startswith("trigger")}
    own = {o.name for o in configs.describe(adversarial.Config, {})}
    assert names - own == {"poison_rate", "target", "target_class", "clean_label"} and own < names
    with pytest.raises(ConfigError, match="unknown option 'poison_rate'"):
        configs.parse(adversarial.Config, {"poison_rate": 0.1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "mnsit"}, "unknown data set"),
        ({"anomalous_fraction": -0.1}, "anomalous_fraction must lie in"),
        ({"trusted_fraction": 0.0}, "trusted_fraction must lie in"),
        ({"classes": [3]}, "classes needs at least two entries"),
        ({"controls": ["drawings"]}, "controls must be distinct and among"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        configs.parse(adversarial.Config, options)


def test_rows_that_cannot_be_had():
    with pytest.raises(DataError, match="the part 'untrusted' would have no .* rows|would be empty"):
        adversarial.build(adversarial.Config(max_rows=15), 0)
