"""Runs of a real MLflow store side by side, and tables whose every cell is known."""

import csv
import json
import re
from pathlib import Path

import pytest

from mad.__main__ import main
from mad.runtime import comparison, comparison_table
from mad.runtime.comparison import Comparison, compare
from mad.runtime.comparison_table import cells, in_common, make_table, shown, to_latex
from mad.runtime.mlflow_runs import RunReader
from mad.runtime.settings import Settings, settings

SMALL = ["--task.max_rows", "500", "--train.epochs", "2", "--train.workers", "0", "--experiment", "studies"]
DETECTORS = {
    "mahalanobis": ["--detector", "mahalanobis", "--detect.bootstrap", "50"],
    "noise": ["--detector", "knn", "--detect.bootstrap", "50", "--task.trigger", "noise"],
    "validation": ["--detector", "knn", "--detect.part", "validation"],
    "skyline": ["--detector", "probe", "--detect.bootstrap", "50"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAD_HOME", str(home))
        for name in ("MLFLOW_TRACKING_URI", "MAD_STORE"):
            patch.delenv(name, raising=False)
        for words in DETECTORS.values():
            assert main(["detect", *SMALL, *words]) == 0
    return home


@pytest.fixture
def here(home, monkeypatch, tmp_path):
    monkeypatch.setenv("MAD_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def table_of(**options):
    return compare(RunReader(settings()), Comparison(**options))


def refused(capsys, *words):
    capsys.readouterr()
    assert main(["report", *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_one_row_per_run_on_test_rows_the_best_first(here):
    rows = table_of(experiment="studies").rows
    assert sorted(rows["detector"]) == ["knn", "mahalanobis", "probe"]
    assert list(rows["auroc"]) == sorted(rows["auroc"], reverse=True)
    assert (rows["auroc_low"] <= rows["auroc"]).all() and (rows["auroc"] <= rows["auroc_high"]).all()
    assert list(rows["detector"][rows["supervised"]]) == ["probe"]


def test_settings_of_rows_and_model_come_from_the_runs_behind(here):
    table = table_of(experiment="studies")
    assert set(table.rows["task.trigger"]) == {"corner", "noise"}
    assert table.same["task.dataset"] == "digits" and table.same["model"] == "mlp"
    assert table.same["train.epochs"] == "2"
    assert "task.trigger" in table.varied and "detector.k" in table.partial
    noise = table.rows[table.rows["task.trigger"] == "noise"].iloc[0]
    assert noise["task.trigger.std"] and noise.isna()["task.trigger.size"], "no mixture of two tasks"


def test_rows_of_another_task_than_the_models(here, capsys):
    """A detector of the corner model on rows with noise: the task is that of the rows."""
    reader = RunReader(settings())
    fitted = next(r for r in reader.finished(reader.experiments("studies"), "fit") if "mahalanobis" in r.info.run_name)
    key = fitted.data.tags["mad.artifact"]
    words = ["--fitted", key, "--task.trigger", "noise", "--detect.bootstrap", "0", "--experiment", "moved"]
    assert main(["detect", *words]) == 0
    row = table_of(experiment="moved").rows.iloc[0]
    assert row["task.trigger"] == "noise" and row["detector"] == "mahalanobis" and row["train.epochs"] == "2"
    assert "task.trigger.size" not in row


def test_controls_are_compared(here):
    table = table_of(experiment="studies")
    kinds = [name for name in table.points if name.startswith("control_")]
    assert kinds and all(name.endswith(("_auroc", "_flagged")) for name in kinds)


def test_what_is_asked_is_printed_and_written(here, capsys, tmp_path):
    words = ["--experiment", "studies", "--csv", "a/b.csv", "--latex", "t.tex", "--json", "t.json"]
    assert main(["report", *words]) == 0
    told = capsys.readouterr().out
    assert "the same in all" in told and "mahalanobis" in told and "supervised" in told
    lines = list(csv.DictReader((tmp_path / "a/b.csv").open()))
    table = table_of(experiment="studies")
    assert [line["id"] for line in lines] == list(table.rows["id"])
    assert float(lines[0]["auroc"]) == pytest.approx(table.rows["auroc"][0])
    assert lines[0]["train.epochs"] == "2"
    data = json.loads((tmp_path / "t.json").read_text())
    assert data["same"] == table.same and len(data["rows"]) == 3 and "train.epochs" not in data["rows"][0]
    assert r"\midrule" in (tmp_path / "t.tex").read_text()


def test_the_same_scores_made_twice_are_one_row(here):
    before = len(table_of(experiment="studies").rows)
    assert main(["detect", *SMALL, *DETECTORS["mahalanobis"], "--force"]) == 0
    assert len(table_of(experiment="studies").rows) == before


def test_other_kinds_of_runs(here):
    table = table_of(experiment="studies", stage="train")
    assert {"test_clean_accuracy", "test_attack_success_rate"} <= set(table.points)
    assert set(table.rows["task.trigger"]) == {"corner", "noise"} and table.rows["detector"].isna().all()


def test_runs_are_chosen_by_the_beginning_of_their_ids(here, capsys):
    everything = table_of().rows
    chosen = list(everything["id"][:2])
    words = f"[{chosen[0]}, {chosen[1]}]"
    assert main(["report", "--runs", words, "--json", "two.json"]) == 0
    assert {row["id"] for row in json.loads(Path("two.json").read_text())["rows"]} == set(chosen)
    assert "the id of no finished run of stage detect begins with 'zzzz'" in refused(capsys, "--runs", "zzzz")
    assert "give 4 characters of a run id or more" in refused(capsys, "--runs", "ab")


def test_mistakes_are_one_line(here, capsys, tmp_path):
    assert "no experiment 'studis'" in (line := refused(capsys, "--experiment", "studis"))
    assert "(did you mean studies?)" in line
    line = refused(capsys, "--experiment", "studies", "--stage", "trial")
    assert re.search(
        r"no finished run of stage trial in experiment 'studies'; there are \d of detect, 2 of train$", line
    )
    assert "--stage: expected 'detect'" in refused(capsys, "--stage", "fit")
    (tmp_path / "folder").mkdir()
    assert "--csv folder is a folder" in refused(capsys, "--experiment", "studies", "--csv", "folder")


def test_no_store_is_told_and_none_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MAD_HOME", str(tmp_path / "empty"))
    assert "no MLflow store at sqlite:" in refused(capsys, "--experiment", "studies")
    assert not (tmp_path / "empty").exists()


def test_a_server_that_is_away_is_told(tmp_path):
    away = Settings(tmp_path, "", "http://127.0.0.1:9", None)
    with pytest.raises(comparison.MadError, match="cannot read MLflow at http://127.0.0.1:9"):
        compare(RunReader(away), Comparison(experiment="x"))


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ({"experiment": "x"}, True),
        ({"experiment": "x", "csv": "a", "json": "b"}, True),
        ({"runs": "abcd"}, True),
        ({}, False),
        ({"json": "a"}, False),
        ({"experiment": "x", "scores": "y"}, False),
        ({"experiment": "x", "task.dataset": "mnist"}, False),
        ({"experiment": "x", "dry_run": "true"}, False),
    ],
)
def test_what_counts_as_a_comparison(flags, answer):
    assert comparison.asked(flags) is answer


def test_help_tells_of_it(capsys):
    assert main(["report", "-h"]) == 0
    told = capsys.readouterr().out
    assert "Comparison of MLflow runs" in told and "--latex" in told and "list[str]" in told


def row(detector, auroc, **more):
    metrics = {k: more.pop(k) for k in list(more) if k in ("auroc_low", "auroc_high", "fpr95", "control_x_flagged")}
    facts = {"run": f"detect {detector}", "id": detector[:8], "detector": detector, "supervised": detector == "probe"}
    return {**facts, "seed": "0", **more, "metrics": {"auroc": auroc, **metrics}}


def test_options_at_their_default_are_left_out():
    knn = {"detector.k": "10", "detector.metric": "euclidean"}
    rows = [
        row("knn", 0.9, **knn),
        row("knn", 0.8, **{**knn, "detector.k": "3"}),
        row("mahalanobis", 0.7, **{"detector.shrinkage": "0.25", "detector.relative": "none"}),
        row("absent_plugin", 0.6, **{"detector.x": "1"}),
    ]
    titles, lines = cells(make_table(rows, ["auroc"]), ["auroc"], settings=True, intervals=False)
    assert titles == ["id", "detector", "auroc", "settings"]
    assert [line[-1] for line in lines] == ["k=10", "k=3", "shrinkage=0.25", "x=1"]


def test_what_is_common_and_not_a_default_is_told_once():
    common = {
        "model": "mlp",
        "model.hidden": "[64]",
        "model.activation": "relu",
        "train.lr": "0.5",
        "train.epochs": "20",
    }
    table = make_table([row("knn", 0.9, **common), row("que", 0.8, **common)], ["auroc"])
    assert in_common(table) == {"model": "mlp", "model.hidden": "[64]", "train.lr": "0.5"}
    assert set(table.same) == {"seed", *common}


def test_titles_lose_their_section_where_that_leaves_them_apart():
    one, two = (
        {"task.seed": "1", "train.seed": "1", "task.trigger": "a"},
        {"task.seed": "2", "train.seed": "2", "task.trigger": "b"},
    )
    table = make_table([row("knn", 0.9, **one), row("que", 0.8, **two)], ["auroc"])
    titles, _ = cells(table, ["auroc"], settings=True, intervals=False)
    assert titles == ["id", "detector", "task.seed", "trigger", "train.seed", "auroc"]


def test_latex_is_escaped_and_the_best_unsupervised_is_bold():
    rows = [
        row("probe", 1.0, fpr95=0.0, **{"task.a_b": "50%"}),
        row("knn", 0.95, fpr95=0.25, auroc_low=0.9, auroc_high=0.99996, **{"task.a_b": "x_y"}),
        row("que", 0.9, fpr95=0.125, **{"task.a_b": r"~\{"}),
    ]
    text = to_latex(make_table(rows, ["auroc", "fpr95"]))
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert lines == [
        r"id & detector & a b & AUROC & FPR95 \\",
        r"probe & probe (supervised) & 50\% & 1.0000 & 0.0000 \\",
        r"knn & knn & x\_y & \textbf{0.9500 [0.9000, \textgreater{}0.9999]} & 0.2500 \\",
        r"que & que & \textasciitilde{}\textbackslash{}\{ & 0.9000 & \textbf{0.1250} \\",
    ]
    assert text.startswith("% seed = 0\n")
    assert r"\begin{tabular}{lllrr}" in text


def test_runs_without_the_figure_come_last():
    rows = [row("a", float("nan")), row("b", 0.2), {**row("c", 0.0), "metrics": {}}]
    table = make_table(rows, ["auroc", "fpr95"])
    assert list(table.rows["detector"]) == ["b", "a", "c"] and table.figures == ["auroc"]
    assert cells(table, ["auroc"], settings=True, intervals=True)[1][2] == ["c", "c", "-"]


def test_numbers_never_round_to_a_perfect_one():
    assert [shown(v) for v in (1.0, 0.99997, 0.9999, 0.5, 12.34567, float("nan"), None)] == [
        "1.0000", ">0.9999", "0.9999", "0.5000", "12.35", "-", "-",
    ]  # fmt: skip
    assert shown(0.9996, 3) == ">0.999"


def test_control_rows_have_a_table_of_their_own(capsys):
    comparison_table.show(make_table([row("knn", 0.9, control_x_flagged=0.25)], ["auroc", "control_"]), "detectors")
    told = capsys.readouterr().out
    assert "x flagged" in told and "0.2500" in told and told.index("controls, unusual but benign") > told.index("auroc")
