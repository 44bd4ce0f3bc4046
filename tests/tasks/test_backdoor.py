import json

import pytest
import torch

from mad.tasks import backdoor
from mad.tasks._base import COLUMNS, PARTS
from mad.tasks.triggers import blended, noise
from tests.tasks.layouts import write_mnist

MIXED = ("untrusted", "validation", "test")


def part(rows, name):
    return rows.table[rows.table["part"] == name]


def clean_of(rows, table):
    return rows.inputs[torch.tensor(table["source"].to_numpy())].float() / rows.scale


@pytest.fixture(scope="module")
def rows():
    return backdoor.build(backdoor.Config(), 0)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return str(write_mnist(tmp_path_factory.mktemp("data"), 1000, 400))


def test_table_follows_the_contract(rows):
    table = rows.table
    assert tuple(table.columns) == COLUMNS and table["part"].drop_duplicates().tolist() == list(PARTS)
    assert table["id"].is_unique
    assert table["is_anomalous"].dtype == bool and all(
        table[c].dtype == "int64" for c in ("source", "variant", "label")
    )
    triggered = table[table["is_anomalous"]]
    changed = table[table["variant"] >= 0]
    assert changed["variant"].tolist() == list(range(len(rows.variants))), "each variant belongs to one row"
    assert (changed["is_anomalous"] ^ (changed["control"] != "")).all() and (triggered["variant"] >= 0).all()
    assert (table["control"] != "").equals(table["part"] == "control")
    assert rows.variants.dtype == torch.float32 and 0 <= rows.variants.min() <= rows.variants.max() <= 1
    json.dumps(rows.facts, allow_nan=False)


def test_no_image_is_in_two_parts_or_twice_in_one(rows):
    separate = rows.table[~rows.table["part"].isin(["trusted", "control"])]
    assert separate["source"].is_unique
    trusted, train = part(rows, "trusted"), part(rows, "train")
    assert trusted["source"].is_unique and set(trusted["source"]) == set(train.loc[~train["is_anomalous"], "source"])


def test_poisoned_rows_have_the_trigger_and_the_label_of_the_attack(rows):
    train = part(rows, "train")
    poisoned = train[train["is_anomalous"]]
    assert len(poisoned) == round(0.1 * len(train)) == rows.facts["anomalous_rows"]["train"]
    assert (poisoned["label"] == 0).all() and (poisoned["clean_label"] != 0).all()
    assert (train.loc[~train["is_anomalous"], "label"] == train.loc[~train["is_anomalous"], "clean_label"]).all()
    variants = rows.variants[torch.tensor(poisoned["variant"].to_numpy())]
    expected = clean_of(rows, poisoned)
    expected[:, :, 0, 0] = 1
    assert torch.equal(variants, expected)


def test_trusted_and_calibration_rows_are_never_triggered(rows):
    for name in ("trusted", "calibration"):
        table = part(rows, name)
        assert len(table) and not table["is_anomalous"].any() and (table["label"] == table["clean_label"]).all()


def test_images_of_the_target_class_are_never_evidence_of_the_attack(rows):
    """The old code counted triggered images of the target class as anomalous, and as successes."""
    triggered = rows.table[rows.table["is_anomalous"]]
    assert (triggered["clean_label"] != 0).all() and (triggered["label"] == 0).all()


def test_rows_are_in_no_telling_order(rows):
    """The old code gave all normal rows and then all anomalous ones, which batch-wise scores can read."""
    for name in ("train", *MIXED):
        flags = torch.tensor(part(rows, name)["is_anomalous"].to_numpy()).double()
        places = torch.arange(len(flags)).double()
        assert abs(torch.corrcoef(torch.stack([flags, places]))[0, 1]) < 0.25


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
def test_anomalous_fraction_uses_the_rows_there_are(fraction):
    """The old code ignored the weight: 1000 rows at .9 became 99 and 99, the rest was thrown away."""
    rows = backdoor.build(backdoor.Config(anomalous_fraction=fraction), 0)
    pool = round(0.3 * 1797) // 2
    for name in ("validation", "test"):
        table = part(rows, name)
        assert abs(table["is_anomalous"].mean() - fraction) < 0.01
        assert len(table) > 0.87 * pool, "only images of the target class may be left over"
        assert rows.facts["anomalous_fraction"][name] == table["is_anomalous"].mean()


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.9])
def test_untrusted_rows_have_a_share_of_their_own(fraction):
    """The old code had a weight for each mixture, and honoured neither."""
    options = {"anomalous_fraction": 0.4, "untrusted_fraction": 0.2}
    rows = backdoor.build(backdoor.Config(**options, untrusted_anomalous_fraction=fraction), 0)
    plain = backdoor.build(backdoor.Config(**options), 0)
    assert part(rows, "untrusted")["is_anomalous"].mean() == pytest.approx(fraction, abs=0.005)
    assert part(plain, "untrusted")["is_anomalous"].mean() == pytest.approx(0.4, abs=0.005)
    for name in ("train", "trusted", "validation", "test"):
        assert list(part(rows, name)["id"]) == list(part(plain, name)["id"])
        assert list(part(rows, name)["is_anomalous"]) == list(part(plain, name)["is_anomalous"])


@pytest.mark.parametrize("fraction", [0.0, 1.0])
@pytest.mark.parametrize("target", ["fixed_class", "cycle_class"])
def test_anomalous_fraction_of_zero_and_one(fraction, target):
    """The old code divided by zero."""
    rows = backdoor.build(backdoor.Config(anomalous_fraction=fraction, target=target), 0)
    for name in MIXED:
        table = part(rows, name)
        assert (table["is_anomalous"] == bool(fraction)).all()
        if fraction == 0 or target == "cycle_class":
            assert len(table) >= 125, "nothing is left over"
    assert rows.facts["anomalous_rows"]["train"] > 0


def test_clean_evaluation_rows_keep_the_natural_mix_of_classes(rows):
    for name in ("validation", "test"):
        table = part(rows, name)
        share = table.loc[~table["is_anomalous"], "clean_label"].value_counts(normalize=True)
        assert abs(share - 0.1).max() < 0.03


def test_another_seed_gives_other_rows_and_the_config_seed_wins(rows):
    other = backdoor.build(backdoor.Config(), 1)
    assert set(part(other, "test")["source"]) != set(part(rows, "test")["source"])
    assert backdoor.build(backdoor.Config(seed=0), 1).table.equals(rows.table)


def test_the_trigger_is_the_one_its_state_describes_in_any_batch(monkeypatch):
    config = backdoor.Config(trigger=blended.Config())
    rows = backdoor.build(config, 0)
    triggered = rows.table[rows.table["is_anomalous"]]
    expected = 0.8 * clean_of(rows, triggered) + 0.2 * rows.state["pattern"]
    torch.testing.assert_close(rows.variants[: len(triggered)], expected)
    monkeypatch.setattr(backdoor, "TRIGGER_BATCH", 7)
    assert torch.equal(backdoor.build(config, 0).variants, rows.variants)


def test_noise_of_a_row_does_not_depend_on_the_other_rows():
    config = {"trigger": noise.Config(), "seed": 0}
    few = backdoor.build(backdoor.Config(**config, anomalous_fraction=0.2), 0)
    many = backdoor.build(backdoor.Config(**config, anomalous_fraction=0.5), 0)
    tables = [r.table[r.table["is_anomalous"]].set_index("source") for r in (few, many)]
    common = tables[0].index.intersection(tables[1].index)
    variants = [
        r.variants[torch.tensor(t.loc[common, "variant"].to_numpy())] for r, t in zip((few, many), tables, strict=True)
    ]
    assert len(common) > 100 and torch.equal(variants[0], variants[1])


def test_cycle_class_moves_every_label_by_one():
    rows = backdoor.build(backdoor.Config(target="cycle_class"), 0)
    triggered = rows.table[rows.table["is_anomalous"]]
    assert (triggered["label"] == (triggered["clean_label"] + 1) % 10).all() and set(triggered["clean_label"]) == set(
        range(10)
    )
    assert rows.facts["target_class"] is None and rows.facts["unused_rows"] == 0


def test_clean_label_poisons_the_target_class_and_leaves_its_labels():
    rows = backdoor.build(backdoor.Config(clean_label=True, poison_rate=0.05, target_class=3), 0)
    train = part(rows, "train")
    poisoned = train[train["is_anomalous"]]
    assert len(poisoned) == round(0.05 * len(train)) and (poisoned["clean_label"] == 3).all()
    assert (train["label"] == train["clean_label"]).all()
    test = part(rows, "test")
    assert (test.loc[test["is_anomalous"], "label"] == 3).all() and (
        test.loc[test["is_anomalous"], "clean_label"] != 3
    ).all()


def test_poison_rate_zero_leaves_a_clean_model_and_triggered_evaluation_rows():
    rows = backdoor.build(backdoor.Config(poison_rate=0.0), 0)
    assert not part(rows, "train")["is_anomalous"].any() and rows.facts["poison_rate"] == 0
    assert all(part(rows, name)["is_anomalous"].any() for name in MIXED)


def test_trusted_fraction_and_no_untrusted_part():
    rows = backdoor.build(backdoor.Config(trusted_fraction=0.25, untrusted_fraction=0.0), 0)
    train = part(rows, "train")
    assert len(part(rows, "trusted")) == round(0.25 * (~train["is_anomalous"]).sum())
    assert len(part(rows, "untrusted")) == 0 and "untrusted" not in rows.facts["anomalous_fraction"]


def test_official_test_part_is_never_trained_on(mnist):
    rows = backdoor.build(backdoor.Config(dataset="mnist", root=mnist, target="cycle_class"), 0)
    table = rows.table[rows.table["control"] != "dataset"]
    from_test = table["source"] >= 1000
    assert (from_test == table["part"].isin(["validation", "test", "control"])).all()
    assert rows.facts["rows"]["validation"] == rows.facts["rows"]["test"] == 200
    assert rows.facts["rows"]["calibration"] == 100 and rows.facts["rows"]["train"] == 800


def test_classes_are_kept_and_relabelled_in_the_order_given(rows):
    few = backdoor.build(backdoor.Config(classes=[7, 1], poison_rate=0.2, target_class=1), 0)
    assert few.class_names == ("7", "1") and set(part(few, "test")["clean_label"]) == {0, 1}
    own, found = (r.table[r.table["control"] != "dataset"] for r in (rows, few))
    labels = dict(zip(own["id"].str[-6:], own["clean_label"], strict=True))
    common = found[found["id"].str[-6:].isin(labels)]
    assert all((7, 1)[r.clean_label] == labels[r.id[-6:]] for r in common.itertuples()), "ids name the same images"
    assert few.facts["target_class"] == 1


def test_max_rows_is_a_seeded_stratified_subset(mnist):
    config = backdoor.Config(dataset="mnist", root=mnist, max_rows=280)
    rows = backdoor.build(config, 0)
    assert len(rows.inputs) == 280 and rows.facts["rows"]["train"] + rows.facts["rows"]["calibration"] == 180
    assert rows.table.equals(backdoor.build(config, 0).table)
    assert not rows.table.equals(backdoor.build(config, 1).table)
    assert len(backdoor.build(backdoor.Config(max_rows=10**6), 0).inputs) == 1797


def test_digest_ignores_path_seed_and_subset(mnist, tmp_path):
    digest = backdoor.digest(backdoor.Config(dataset="mnist", root=mnist))
    assert digest == backdoor.digest(
        backdoor.Config(dataset="mnist", root=str(write_mnist(tmp_path, 1000, 400)), seed=4)
    )
    assert digest != backdoor.digest(backdoor.Config())
