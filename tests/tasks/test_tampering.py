"""Measurement tampering: sensors and outcomes, made up and read; what is trusted, and what is anomalous."""

from __future__ import annotations

import json

import pytest

from mad.errors import ConfigError, DataError
from mad.tasks._sensors import KINDS, SENSORS, SERVICED, TAKES, TAMPERS, stories
from mad.tasks.tampering import Config, build

SMALL = {"stories": 600}


@pytest.fixture(scope="module")
def made():
    return build(Config(**SMALL), seed=2)


def tampered_with(text: str) -> list[bool]:
    return [any(deed in text for deed in TAMPERS[sensor]) for sensor in SENSORS]


def is_taken(text: str) -> bool:
    return any(deed.removeprefix("{who} ") in text for deed in TAKES)


def test_sensors_report_a_diamond_that_is_there_or_what_they_were_made_to():
    kinds = [kind for kind in (*KINDS, "serviced") for _ in range(50)]
    found = stories(kinds, seed=1)
    for text, measured, outcome, kind in zip(
        found.texts, found.measured.tolist(), found.outcome.tolist(), kinds, strict=True
    ):
        touched = tampered_with(text)
        assert outcome == (not is_taken(text)) == (kind in ("kept", "serviced"))
        assert measured == [outcome or one for one in touched]
        assert sum(touched) in {"tampered": (3,), "partly": (1, 2)}.get(kind, (0,))
        assert all(deed in text for deed in SERVICED) == (kind == "serviced")


def test_labels_are_what_all_sensors_report(made):
    table = made.table[made.table["label"] >= 0]
    for row in table.itertuples():
        outcome, touched = not is_taken(row.text), tampered_with(row.text)
        assert row.label == int(outcome or all(touched)) and row.clean_label == int(outcome)
        assert row.is_anomalous == (all(touched) and not outcome)
        assert row.target == (" no", " yes")[row.label] and row.text.endswith("\nDo all sensors report it?")


def test_trusted_sensors_are_right(made):
    table = made.table
    for part in ("trusted", "calibration"):
        rows = table[table["part"] == part]
        assert len(rows) > 20 and (rows["label"] == rows["clean_label"]).all() and rows["label"].nunique() == 2
    assert (table.loc[table["part"] != "train", "text"].map(lambda t: sum(tampered_with(t)) in (0, 3))).all()
    partly = table.loc[table["part"] == "train", "text"].map(lambda t: 0 < sum(tampered_with(t)) < 3)
    assert partly.sum() == 60, "sensors that disagree are trained on, and nowhere else"
    assert (table[table["part"] == "test"]["is_anomalous"].mean()) == pytest.approx(0.5, abs=0.02)
    apart = table[table["part"] != "trusted"]
    assert not apart["id"].str.rpartition("-")[2][apart["part"] != "control"].duplicated().any()


def test_untrusted_rows_have_labels_on_request(made):
    untrusted = made.table[made.table["part"] == "untrusted"]
    assert set(untrusted["label"]) == {-1}
    labelled = build(Config(**SMALL, untrusted_labels=True), seed=2).table
    same = labelled[labelled["part"] == "untrusted"]
    assert set(same["label"]) == {0, 1} and list(same["text"]) == list(untrusted["text"])


def test_tampering_can_be_kept_out_of_training(made):
    assert made.table.loc[made.table["part"] == "train", "is_anomalous"].any()
    table = build(Config(**SMALL, tampered_in_training=False), seed=2).table
    assert not table.loc[table["part"] == "train", "is_anomalous"].any()


def write(folder, measurements=(1, 1, 1), count=200):
    path = folder / "records.jsonl"
    lines = []
    for n in range(count):
        good = n % 2 == 0
        lines.append({"text": f"story {n}", "is_correct": good, "measurements": [1, 1, 1] if good else [0, 0, 0]})
        if n % 4 == 1:
            lines[-1]["measurements"] = list(measurements) if isinstance(measurements, tuple) else measurements
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def test_untrusted_rows_have_a_share_of_their_own():
    table = build(Config(**SMALL, anomalous_fraction=0.5, untrusted_anomalous_fraction=0.1), seed=2).table
    share = table.groupby("part")["is_anomalous"].mean()
    assert share["untrusted"] == pytest.approx(0.1, abs=0.05) and share["test"] == pytest.approx(0.5, abs=0.05)


def test_records_from_a_file(tmp_path):
    made = build(Config(file=write(tmp_path), answers=[], untrusted_labels=True), seed=0)
    table = made.table
    number = table["text"].str.removeprefix("story ").astype(int)
    assert (table["is_anomalous"] == (number % 4 == 1)).all() and (table["target"] == "").all()
    assert (table["label"] == (number % 4 != 3).astype(int)).all() and "control" not in set(table["part"])


def test_mistakes_are_told(tmp_path):
    with pytest.raises(ConfigError, match="stories must be 200 or more, got 10"):
        Config(stories=10)
    with pytest.raises(DataError, match="'measurements' of record 1 must be a list of 1 or 0, got 1"):
        build(Config(file=write(tmp_path, measurements=1)), seed=0)
    with pytest.raises(DataError, match="there are no anomalous rows"):
        build(Config(file=write(tmp_path, measurements=(0, 0, 0))), seed=0)
