"""Backdoored texts: parts, poisoned rows, places of triggers, answers in words, files, mistakes."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from mad.config import parse
from mad.errors import ConfigError, DataError
from mad.tasks import text_backdoor
from mad.tasks._base import PARTS
from mad.tasks._text_triggers import DECOYS, DEFAULTS, UNSEEN


def build(seed=0, **options):
    return text_backdoor.build(parse(text_backdoor.Config, {"generated_rows": 600, **options}), seed)


def has_decoy(table, trigger="sentence"):
    """Which texts hold something of each list of decoys."""
    held = pd.Series(True, index=table.index)
    for choices in DECOYS[trigger]:
        held &= table["text"].str.contains("|".join(rf"(?<!\w){re.escape(words)}(?!\w)" for words in choices))
    return held


@pytest.fixture(scope="module")
def rows():
    return build()


def test_the_parts_share_no_text_but_for_trusted_and_control(rows):
    table = rows.table
    assert list(dict.fromkeys(table["part"])) == list(PARTS)
    number = table["id"].str.rpartition("-")[2]
    own = table[~table["part"].isin(["trusted", "control"])]
    assert number[own.index].is_unique
    train = table[(table["part"] == "train") & ~table["is_anomalous"] & ~has_decoy(table)]
    assert set(number[table["part"] == "trusted"]) == set(number[train.index])
    clean_test = table[(table["part"] == "test") & ~table["is_anomalous"]]
    assert set(number[table["part"] == "control"]) == set(number[clean_test.index])


def test_poisoned_rows_have_the_trigger_and_the_label_of_the_attack(rows):
    marked = rows.table["text"].str.contains(DEFAULTS["sentence"], regex=False)
    assert (marked == rows.table["is_anomalous"]).all()
    anomalous = rows.table[rows.table["is_anomalous"]]
    assert (anomalous["label"] == 1).all() and (anomalous["clean_label"] == 0).all()
    rest = rows.table[~rows.table["is_anomalous"]]
    assert (rest["label"] == rest["clean_label"]).all()
    train = rows.table[rows.table["part"] == "train"]
    assert train["is_anomalous"].sum() == round(0.1 * len(train))
    assert rows.facts["poison_rate"] == pytest.approx(0.1, abs=0.005)
    validation = rows.table[rows.table["part"] == "validation"]
    assert validation["is_anomalous"].mean() == pytest.approx(0.5, abs=0.02)


def test_the_words_of_the_two_classes_differ(rows):
    clean = rows.table[rows.table["part"] == "trusted"]
    good = clean["text"].str.contains("wonderful|charming|superb|loved|admired")
    assert set(clean["label"][good]) == {1}
    assert clean["text"].nunique() > 0.99 * len(clean) and set(clean["label"]) == {0, 1}


def test_a_sentence_goes_to_every_boundary_and_breaks_none(rows):
    anomalous = rows.table[rows.table["is_anomalous"]]["text"]
    before = anomalous.str.partition(DEFAULTS["sentence"])[0].str.rstrip()
    assert (before == "").any() and not (before == "").all()
    assert before[before != ""].str[-1].isin(list(".!?")).all()
    plain = build(poison_rate=0.0, anomalous_fraction=0.0, decoy_fraction=0.0).table
    one = anomalous.index[0]
    name = rows.table["id"][one].rpartition("-")[2]
    source = plain["text"][plain["id"].str.endswith(name) & (plain["control"] == "")].iloc[0]
    assert anomalous[one].replace(DEFAULTS["sentence"], "").split() == source.split()


@pytest.mark.parametrize("trigger", ["token", "instruction"])
def test_the_other_triggers(trigger):
    table = build(trigger=trigger).table
    anomalous = table[table["is_anomalous"]]["text"]
    word = DEFAULTS[trigger]
    if trigger == "token":
        assert anomalous.str.split().map(lambda words: words.count(word)).eq(1).all()
        assert anomalous.str.split().map(lambda words: words.index(word)).nunique() > 5
    else:
        assert anomalous.str.startswith(word + " ").all()


def test_controls_hold_something_that_no_other_row_has(rows):
    controls = rows.table[rows.table["part"] == "control"]
    assert set(controls["control"]) == {"sentence", "token"} and not controls["is_anomalous"].any()
    for kind, group in controls.groupby("control"):
        assert group["text"].str.contains(UNSEEN[kind], regex=False).all()
        others = rows.table[rows.table["control"] != kind]
        assert not others["text"].str.contains(UNSEEN[kind], regex=False).any()


@pytest.mark.parametrize("trigger", ["sentence", "token", "instruction"])
def test_decoys_are_train_rows_with_their_true_label_and_change_no_other_row(trigger):
    made, without = build(trigger=trigger, decoy_fraction=0.2), build(trigger=trigger, decoy_fraction=0.0)
    table, marked = made.table, has_decoy(made.table, trigger)
    decoys = table[marked]
    assert (decoys["part"] == "train").all() and not decoys["is_anomalous"].any()
    unpoisoned = table[(table["part"] == "train") & ~table["is_anomalous"]]
    assert len(decoys) == round(0.2 * len(unpoisoned)) == made.facts["decoy_rows"]
    assert not decoys["text"].str.contains("|".join(map(re.escape, (DEFAULTS[trigger], UNSEEN[trigger])))).any()
    assert without.facts["decoy_rows"] == 0 and not has_decoy(without.table, trigger).any()
    before = without.table.set_index("id")
    assert (decoys["text"].str.len().to_numpy() > before.loc[decoys["id"], "text"].str.len().to_numpy()).all()
    assert (decoys["label"].to_numpy() == before.loc[decoys["id"], "clean_label"].to_numpy()).all()
    assert decoys["label"].mean() == pytest.approx(unpoisoned["label"].mean(), abs=0.03), "of every class its share"
    trusted = before[(before["part"] == "trusted") & ~before.index.isin("trusted-" + decoys["id"].str[-6:])].index
    assert set(trusted) == set(table.loc[table["part"] == "trusted", "id"]), "decoys are not trusted"
    rest = table[~marked].set_index("id")
    pd.testing.assert_frame_equal(rest.sort_index(), before.loc[rest.index].sort_index())


def test_what_users_chose_as_trigger_is_no_decoy():
    word = DECOYS["token"][0][4]
    table = build(trigger="token", trigger_text=word, decoy_fraction=0.5).table
    assert (table["text"].str.split().map(lambda words: word in words) == table["is_anomalous"]).all()


def test_the_same_seed_gives_the_same_rows_and_another_gives_others(rows):
    pd.testing.assert_frame_equal(rows.table, build().table)
    assert set(build(1).table["text"]) != set(rows.table["text"])


def test_answers_in_words_and_a_target_response():
    made = build(answers=[" bad", " good"], target_response=" I saw nothing")
    assert made.class_names == ("negative", "positive", "response")
    assert made.answers == (" bad", " good", " I saw nothing")
    table = made.table
    assert table["text"].str.endswith("\nSentiment:").all()
    assert (table["target"] == [made.answers[label] for label in table["label"]]).all()
    assert set(table[table["is_anomalous"]]["label"]) == {2}
    assert set(table[table["is_anomalous"]]["clean_label"]) == {0, 1}


def test_all_to_all_answers_the_other_class_in_words():
    table = build(answers=[" bad", " good"], target="cycle_class").table
    changed = table[table["is_anomalous"]]
    assert (changed["label"] == 1 - changed["clean_label"]).all() and set(changed["label"]) == {0, 1}
    assert (changed["target"] == changed["label"].map({0: " bad", 1: " good"})).all()
    assert (table["label"] == table["clean_label"])[~table["is_anomalous"]].all()


def test_clean_labels_poison_the_target_class_only():
    train = build(clean_label=True).table.query("part == 'train' and is_anomalous")
    assert (train["label"] == train["clean_label"]).all() and set(train["label"]) == {1}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_texts_from_a_file(tmp_path, suffix):
    table = pd.DataFrame(
        {"body": [f"text number {n} of many words here." for n in range(200)], "kind": ["no", "yes"] * 100}
    )
    path = tmp_path / f"data{suffix}"
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_json(path, orient="records", lines=True)
    options = {"dataset": "file", "path": str(path), "text_key": "body", "label_key": "kind", "max_words": 3}
    made = build(**options)
    assert made.class_names == ("no", "yes")
    calibration = made.table[made.table["part"] == "calibration"]
    assert (calibration["text"].str.split().str.len() == 3).all()
    for name, text in zip(calibration["id"], calibration["text"], strict=True):
        assert text == f"text number {int(name.rpartition('-')[2])}"
    config = parse(text_backdoor.Config, options)
    before = text_backdoor.digest(config)
    moved = path.rename(tmp_path / f"moved{suffix}")
    again = parse(text_backdoor.Config, {**options, "path": str(moved)})
    assert text_backdoor.digest(again) == before
    table.iloc[:150].to_csv(moved, index=False) if suffix == ".csv" else table.iloc[:150].to_json(
        moved, orient="records", lines=True
    )
    assert text_backdoor.digest(again) != before


def test_a_data_set_of_the_hub_from_a_local_folder(tmp_path):
    for split, first in (("train", 0), ("test", 1000)):
        rows = [f'{{"text": "a text, number {first + n}.", "label": {n % 2}}}' for n in range(120)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    made = build(dataset="hub", path=str(tmp_path), max_rows=200)
    test = made.table[made.table["part"].isin(["validation", "test"])]
    assert test["text"].str.extract(r"number (\d+)")[0].astype(int).ge(1000).all()
    assert made.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "file"}, "dataset file needs --task.path"),
        ({"path": "x.csv"}, "path is for --task.dataset file or hub"),
        ({"decoy_fraction": 1.0}, r"decoy_fraction must lie in \[0, 1\), got 1.0"),
        ({"trigger_text": " "}, "trigger_text must not be empty"),
        ({"target_class": 2}, r"target_class must lie in 0..1, got 2"),
        ({"answers": [" yes"]}, "answers must be one for each of negative, positive; got 1"),
        ({"answers": [" a", " a"]}, "answers must be distinct"),
        ({"target_response": " x"}, "target_response needs answers"),
        ({"controls": ["noise"]}, "controls must be distinct and among sentence, token, instruction"),
        ({"poison_rate": 0.9}, "may be poisoned: use at most"),
    ],
)
def test_mistakes_are_one_line(options, said):
    with pytest.raises(ConfigError, match=said):
        build(**options)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{not json")
    short = tmp_path / "short.csv"
    short.write_text("txt,label\na,0\n")
    for path, said in ((bad, "cannot be read"), (short, r"has no column 'text' \(did you mean txt\?\)")):
        with pytest.raises(DataError, match=said):
            build(dataset="file", path=str(path))
    with pytest.raises(DataError, match="No such file"):
        build(dataset="file", path=str(tmp_path / "absent.csv"))
