"""pairs: what is read from files of scores, what is refused, and what names the artifact."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from mad.artifacts import ScorePairs
from mad.errors import ConfigError, DataError
from mad.stages.pairs import COLUMNS, Options, read_pairs
from tests.stages.scores import simulated, write

NAMES = {"baseline": "base", "candidate": "shifted"}


def make(engine, run, path, **options):
    flags = {"pairs.file": path, **{f"pairs.{k}": v for k, v in {**NAMES, **options}.items()}}
    return run(engine, "pairs", flags)["pairs"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_scores_are_read_to_the_last_bit_in_the_order_of_the_file(tmp_path, engine, run, suffix):
    table = simulated(50).iloc[::-1]
    made = make(engine, run, write(table, tmp_path / f"s.{suffix}"), id="prompt_id")
    assert isinstance(made, ScorePairs) and tuple(made.rows.columns) == COLUMNS
    assert made.rows["id"].tolist() == table["prompt_id"].tolist() == made.rows["cluster"].tolist()
    assert made.rows["baseline"].tolist() == table["base"].tolist()
    assert made.rows["candidate"].tolist() == table["shifted"].tolist()
    assert made.summary == {"pairs": 50, "prompts": 50, "missing": 0, "missing_baseline": 0, "missing_candidate": 0}


def test_json_lines_hold_numbers_truths_nan_and_gaps(tmp_path):
    lines = ['{"a": 0.30000000000000004, "b": true, "k": 7}', "", '{"b": NaN, "a": 1, "k": 8}', '{"a": "0.5", "k": 9}']
    (tmp_path / "s.jsonl").write_text("\n".join(lines))
    found = read_pairs(Options(str(tmp_path / "s.jsonl"), baseline="a", candidate="b", id="k"))
    assert found["baseline"].tolist() == [0.30000000000000004, 1.0, 0.5]
    assert found["id"].tolist() == ["7", "8", "9"]
    np.testing.assert_array_equal(found["candidate"], [1.0, np.nan, np.nan])


def test_rows_are_numbered_where_no_column_names_them(tmp_path):
    (tmp_path / "s.csv").write_text('a,b,text\n0.1,0.2,"two\nlines, and a comma"\n0.3,,x\n')
    found = read_pairs(Options(str(tmp_path / "s.csv"), baseline="a", candidate="b"))
    assert found["id"].tolist() == ["1", "2"] == found["cluster"].tolist()
    np.testing.assert_array_equal(found["candidate"], [0.2, np.nan])


def test_two_files_are_joined_by_their_ids(tmp_path):
    table = simulated(40).rename(columns={"base": "score"})
    other = table[["prompt_id", "shifted"]].rename(columns={"shifted": "score"}).sample(frac=1, random_state=1)
    ours, theirs = write(table, tmp_path / "a.csv"), write(other, tmp_path / "b.parquet")
    found = read_pairs(Options(ours, theirs, baseline="score", id="prompt_id"))
    assert found["id"].tolist() == table["prompt_id"].tolist()
    assert found["baseline"].tolist() == table["score"].tolist()
    assert found["candidate"].tolist() == table["shifted"].tolist()


def test_ids_keep_their_leading_zeros_and_agree_between_formats(tmp_path):
    (tmp_path / "a.csv").write_text("k,s\n1,0.1\n01,0.2\n")
    (tmp_path / "b.jsonl").write_text('{"k": "01", "s": 0.3}\n{"k": 1, "s": 0.4}\n')
    found = read_pairs(Options(str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl"), baseline="s", id="k"))
    assert found["candidate"].tolist() == [0.4, 0.3]


def test_missing_scores_are_counted_by_side_and_by_pair(tmp_path, engine, run):
    table = simulated(30)
    table.loc[[1, 2, 3], "base"] = np.nan
    table.loc[[3, 4], "shifted"] = np.nan
    made = make(engine, run, write(table, tmp_path / "s.csv"))
    assert made.summary == {"pairs": 30, "prompts": 30, "missing": 4, "missing_baseline": 3, "missing_candidate": 2}
    assert len(made.rows) == 30


def test_the_content_of_a_file_names_the_artifact_and_its_place_does_not(tmp_path, engine, run):
    path = write(simulated(30), tmp_path / "s.csv")
    (tmp_path / "elsewhere").mkdir()
    moved = str(shutil.copy(path, tmp_path / "elsewhere" / "other.csv"))
    made = make(engine, run, path)
    assert make(engine, run, moved).key == made.key and engine.hits == ["pairs"]
    assert make(engine, run, path, candidate="same").key != made.key
    assert make(engine, run, write(simulated(30, seed=1), tmp_path / "s.csv")).key != made.key


GOOD = "k,a,b,g\n1,0.1,0.2,x\n2,0.3,0.4,x\n"
MISTAKES = {
    "no file named": (None, {"file": ""}, "no scores are given: --scores FILE"),
    "absent": (None, {}, "no such file of scores"),
    "folder": (None, {"file": "{}"}, "no such file of scores"),
    "format": (GOOD, {"file": "{}/s.txt"}, r"cannot tell the format of .*s.txt: its name must end in .csv, .jsonl"),
    "empty": ("", {}, "s.csv is empty"),
    "no rows": ("k,a,b\n", {}, "s.csv holds no rows"),
    "column": (GOOD.replace("a,b", "aa,b"), {}, r"s.csv has no column 'a' \(--baseline\) \(did you mean aa\?\)"),
    "no column": (GOOD, {"candidate": None}, r"--candidate must name a column of .* \(choose from: a, b, g, k\)"),
    "id column": (GOOD, {"id": "key"}, r"has no column 'key' \(--id\)"),
    "words": (GOOD.replace("0.3", "high"), {}, r"1 values of column 'a' of .* are no numbers \(row 2: 'high'\)"),
    "infinite": (GOOD.replace("0.3", "inf"), {}, r"are no numbers \(row 2: 'inf'\)"),
    "ragged": ("k,a,b\n1,0.1,0.2\n2,0.3,0.4,0.5\n", {}, "cannot read .*Expected 3 fields in line 3, saw 4"),
    "long first row": ("k,a,b\n1,0.1,0.2,7\n2,0.3,0.4,0.5\n", {}, "cannot read "),
    "bytes": (b"a,b\n\xff\xfe,1\n", {}, "cannot read .*utf-8"),
    "repeated id": (GOOD, {"id": "g"}, r"1 rows of .* repeat an id \(column 'g', first: 'x'\).*--cluster"),
    "empty cluster": (GOOD.replace("0.2,x", "0.2,"), {"cluster": "g"}, "column 'g' of .* is empty in row 1"),
    "two files, no id": (GOOD, {"candidate_file": "{}/s.csv"}, "give --id COLUMN"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(name, tmp_path):
    content, options, said = MISTAKES[name]
    given = {"file": "{}/s.csv", "baseline": "a", "candidate": "b", **options}
    given = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in given.items()}
    if content is not None:
        (tmp_path / given["file"].rpartition("/")[2]).write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises((ConfigError, DataError), match=said) as caught:
        read_pairs(Options(**given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"a": 1', "line 2 is not JSON"),
        ("[1, 2]", "line 2 is not a JSON object"),
        ('{"a": [0.1, 0.2], "b": 1}', r"are no numbers \(row 2: '\[0.1, 0.2\]'\)"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path, line, said):
    (tmp_path / "s.jsonl").write_text('{"a": 0.1, "b": 0.2}\n' + line + "\n")
    with pytest.raises(DataError, match=said):
        read_pairs(Options(str(tmp_path / "s.jsonl"), baseline="a", candidate="b"))


def test_a_damaged_parquet_file_is_refused(tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot read "):
        read_pairs(Options(str(tmp_path / "s.parquet"), baseline="a", candidate="b"))


def test_files_of_different_prompts_are_not_paired(tmp_path):
    table = pd.DataFrame({"k": ["1", "2", "3"], "g": ["x", "x", "y"], "s": [0.1, 0.2, 0.3]})
    path = write(table, tmp_path / "a.csv")
    options = {"baseline": "s", "id": "k", "cluster": "g"}
    other = write(table.assign(k=["1", "2", "4"]), tmp_path / "b.csv")
    with pytest.raises(DataError, match=r"different prompts: 1 ids are only in .*a.csv and 1 only in .*b.csv"):
        read_pairs(Options(path, other, **options))
    with pytest.raises(DataError, match=r"0 ids are only in .* and 1 only in .* \(first: '3'\)"):
        read_pairs(Options(write(table[:2], tmp_path / "c.csv"), path, **options))
    regrouped = write(table.assign(g=["x", "y", "y"]), tmp_path / "d.csv")
    with pytest.raises(DataError, match=r"column 'g' differs between the files for 1 ids \(first: '2'\)"):
        read_pairs(Options(path, regrouped, **options))
    found = read_pairs(Options(path, write(table[["k", "s"]], tmp_path / "e.csv"), **options))
    assert found["cluster"].tolist() == ["x", "x", "y"]
