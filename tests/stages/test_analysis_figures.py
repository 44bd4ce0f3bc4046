"""Figures of features and of whole studies, by the numbers that are in them."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from sklearn.decomposition import PCA

from mad.errors import DataError
from mad.stages import report
from mad.stages._feature_figures import choose_rows, predicted_classes, project, read_layer, variance_by_layer
from mad.stages._figures import VERMILLION
from mad.stats.agreement import rank_correlation
from mad.stats.variance import split_variance

LAYERS = ["block.0", "block.1"]
PARTS = ["trusted"] * 30 + ["calibration"] * 10 + ["validation"] * 6 + ["test"] * 20 + ["control"] * 8


class Features:
    """Features in memory: chunks of 25 rows."""

    def __init__(self, layers=LAYERS, positions=False, logits=True, parts=PARTS):
        generator = torch.Generator().manual_seed(0)
        n = len(parts)
        self.layers = list(layers)
        shape = (n, 4, 6) if positions else (n, 6)
        self.values = {layer: torch.randn(shape, generator=generator) * torch.arange(1.0, 7.0) for layer in layers}
        self.mask = torch.rand(n, 4, generator=generator) < 0.6
        self.mask[:, 0] = True
        self.logits = torch.randn(n, 3, generator=generator)
        tensors = {
            **self.values,
            **({"mask": self.mask} if positions else {}),
            **({"logits": self.logits} if logits else {}),
        }
        self.chunks = [{k: v[i : i + 25] for k, v in tensors.items()} for i in range(0, n, 25)]
        controls = [["noise", "dataset"][i % 2] if part == "control" else "" for i, part in enumerate(parts)]
        anomalous = [part in ("test", "validation") and i % 2 == 0 for i, part in enumerate(parts)]
        label = np.arange(n) % 3
        self.rows = pd.DataFrame({"part": parts, "control": controls, "is_anomalous": anomalous, "label": label})


SCORED = pd.DataFrame({"part": ["calibration", "test", "control"]})


def test_groups_are_the_parts_that_were_scored():
    features = Features()
    groups = choose_rows(features, SCORED, 1000, 0)
    assert set(groups) == {"trusted", "clean", "anomalous", "control: noise", "control: dataset"}
    rows = features.rows
    for name, numbers in groups.items():
        mine = rows.iloc[numbers.numpy()]
        part = "test" if name in ("clean", "anomalous") else name.partition(":")[0]
        assert set(mine["part"]) == {part} and (mine["is_anomalous"] == (name == "anomalous")).all()
        assert len(mine) == {"trusted": 30, "clean": 10, "anomalous": 10}.get(name, 4)


def test_a_draw_is_that_of_its_seed():
    first, again, other = (choose_rows(Features(), SCORED, 5, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["trusted"], other["trusted"])
    assert [len(numbers) for numbers in first.values()] == [5, 5, 5, 4, 4]
    assert all((numbers.diff() > 0).all() for numbers in first.values())


def test_features_made_before_there_were_controls():
    features = Features(parts=PARTS[:-8])
    features.rows = features.rows.drop(columns="control")
    assert set(choose_rows(features, SCORED, 10, 0)) == {"trusted", "clean", "anomalous"}
    features.rows = features.rows[features.rows["part"] != "trusted"].reset_index(drop=True)
    held = choose_rows(features, SCORED, 1000, 0)["trusted"]
    assert set(features.rows["part"].iloc[held.numpy()]) == {"calibration"}


@pytest.mark.parametrize("positions", [False, True])
def test_rows_are_read_across_chunks_and_averaged_over_real_positions(positions):
    features, numbers = Features(positions=positions), torch.tensor([0, 24, 25, 60, 73])
    found = read_layer(features, "block.1", numbers)
    values = features.values["block.1"]
    for row, number in zip(found, numbers.tolist(), strict=True):
        known = values[number][features.mask[number]].double().mean(0) if positions else values[number].double()
        assert row.tolist() == pytest.approx(known.tolist())


def test_classes_are_predicted_or_else_labels():
    numbers = torch.tensor([1, 40, 70])
    assert torch.equal(predicted_classes(Features(), numbers), Features().logits[numbers].argmax(1))
    assert predicted_classes(Features(logits=False), numbers).tolist() == [1, 1, 1]


def test_scatter_shows_scikit_learns_components_of_trusted_rows():
    features = Features()
    groups = choose_rows(features, SCORED, 1000, 0)
    points, shares = project(features, groups)
    figure = report.pca_figure(points, shares, marker_size=3)
    assert [panel.get_title() for panel in figure.axes] == LAYERS
    for panel, layer in zip(figure.axes, LAYERS, strict=True):
        known = PCA(2, svd_solver="full").fit(features.values[layer][groups["trusted"]].double().numpy())
        lines = {line.get_label(): line for line in panel.lines}
        assert set(lines) == set(groups)
        for name, numbers in groups.items():
            xy = known.transform(features.values[layer][numbers].double().numpy())
            assert np.abs(lines[name].get_xydata()) == pytest.approx(np.abs(xy))
            assert lines[name].get_markersize() == 4.5
        share = 100 * known.explained_variance_ratio_
        assert panel.get_xlabel() == f"PC 1 ({share[0]:.3g}%)" and panel.get_ylabel() == f"PC 2 ({share[1]:.3g}%)"
        assert to_hex(lines["anomalous"].get_color()).upper() == VERMILLION
        assert lines["anomalous"].zorder > lines["clean"].zorder > lines["trusted"].zorder


def test_of_a_deep_model_some_layers_are_shown():
    features = Features([f"blocks.{n}.output" for n in range(50)])
    points, _ = project(features, choose_rows(features, SCORED, 4, 0))
    names = list(points)
    assert len(names) == 16 and names[0] == "blocks.0.output" and names[-1] == "blocks.49.output"


def test_bars_are_shares_of_variance():
    features = Features()
    groups = choose_rows(features, SCORED, 1000, 0)
    table = variance_by_layer(features, groups, 2)
    trusted, both = groups["trusted"], torch.cat([groups["clean"], groups["anomalous"]])
    for _, line in table.iterrows():
        h = features.values[line["layer"]]
        by_class = split_variance(h[trusted], features.logits[trusted].argmax(1))
        kinds = split_variance(h[both], torch.arange(20) < 10)
        assert (line["between_classes"], line["between_classes_chance"]) == pytest.approx(by_class[1:])
        assert (line["between_kinds"], line["between_kinds_chance"]) == pytest.approx(kinds[1:])
        known = PCA(2, svd_solver="full").fit(h[trusted].double().numpy()).explained_variance_ratio_.sum()
        assert line["leading"] == pytest.approx(known)
    left, right = report.variance_figure(table, 2).axes
    for panel, column in ((left, "between_classes"), (right, "between_kinds")):
        heights = [[bar.get_height() for bar in bars] for bars in panel.containers]
        assert heights[0] == pytest.approx(100 * table[column].to_numpy())
        assert heights[1] == pytest.approx(100 - 100 * table[column].to_numpy())
    assert left.lines[0].get_ydata() == pytest.approx(100 * table["leading"].to_numpy())


@pytest.mark.filterwarnings("error")
def test_one_kind_of_rows_and_no_variance(tmp_path):
    features = Features()
    groups = choose_rows(features, SCORED, 1000, 0)
    del groups["anomalous"]
    features.values["block.0"].zero_()
    table = variance_by_layer(features, groups, 1)
    assert table["between_kinds"].isna().all() and math.isnan(table["between_classes"][0])
    assert len(report.variance_figure(table, 1).axes) == 1
    report.save_figure(report.variance_figure(table, 1), tmp_path / "figure", dpi=40)
    report.save_figure(report.pca_figure(*project(features, groups)), tmp_path / "figure", dpi=40)


def make_figures(values, intervals=True):
    columns = ["score", *(f"score/layer.{n}" for n in range(len(values) - 1))]
    metrics = {column: {"auroc": value} for column, value in zip(columns, values, strict=True)}
    found = {c: {"auroc": [m["auroc"] - 0.01, m["auroc"] + 0.01]} for c, m in metrics.items()} if intervals else {}
    return pd.DataFrame(columns=["id", *columns]), {"metrics": metrics, "intervals": found}


@pytest.mark.parametrize("layers", [2, 40])
@pytest.mark.parametrize("intervals", [True, False])
@pytest.mark.filterwarnings("error")
def test_aurocs_by_layer(tmp_path, layers, intervals):
    values = [0.8, *np.linspace(0.45, 0.75, layers)]
    figure = report.layer_auroc_figure(*make_figures(values, intervals))
    report.save_figure(figure, tmp_path / "figure", dpi=40)
    panel = figure.axes[0]
    lines = {line.get_label(): line for line in panel.lines}
    assert list(lines["layer"].get_ydata()) == values[1:]
    assert set(lines["aggregate"].get_ydata()) == {0.8} and "chance" in lines
    ends = [segment[:, 1].tolist() for bars in panel.collections for segment in bars.get_segments()]
    assert np.ravel(ends) == pytest.approx(np.ravel([[v - 0.01, v + 0.01] for v in values[1:]]) if intervals else [])


def test_heat_map_of_layers_and_detectors(tmp_path):
    table = pd.DataFrame(
        [
            ("knn", "fc1", 0.9), ("knn", "fc2", 0.95), ("knn", "aggregate", 1.0),
            ("que", "aggregate", 0.7), ("que", "fc2", 0.6), ("vim", "all", 0.996),
        ],
        columns=["detector", "layer", "auroc"],
    )  # fmt: skip
    figure = report.auroc_heatmap_figure(table)
    report.save_figure(figure, tmp_path / "figure", dpi=40)
    panel = figure.axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["knn", "que", "vim"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["fc1", "fc2", "all", "aggregate"]
    cells = panel.images[0].get_array().filled(np.nan)
    known = [[0.9, np.nan, np.nan], [0.95, 0.6, np.nan], [np.nan, np.nan, 0.996], [1.0, 0.7, np.nan]]
    assert np.array_equal(cells, known, equal_nan=True)
    texts = {text.get_position(): text.get_text() for text in panel.texts}
    assert texts == {(0, 0): ".90", (0, 1): ".95", (1, 1): ".60", (2, 2): ">.99", (0, 3): "1", (1, 3): ".70"}
    assert {(patch.get_x(), patch.get_y()) for patch in panel.patches} == {(-0.5, 0.5), (0.5, 0.5), (1.5, 1.5)}


def test_heat_map_of_tasks_and_detectors(tmp_path):
    names = [f"task {n}" for n in range(30)]
    table = pd.DataFrame(
        [(d, t, 0.5 + 0.01 * i) for d in "abc" for i, t in enumerate(names)], columns=["detector", "task", "auroc"]
    )
    figure = report.auroc_heatmap_figure(table, rows="task")
    report.save_figure(figure, tmp_path / "figure", dpi=40)
    assert figure.axes[0].images[0].get_array().shape == (30, 3) and figure.axes[0].get_ylabel() == "task"
    large = pd.DataFrame([(f"d{d}", t, 0.5) for d in range(40) for t in names], columns=["detector", "task", "auroc"])
    assert not report.auroc_heatmap_figure(large, rows="task").axes[0].texts, "numbers would not fit"


def test_agreement_of_detectors(tmp_path):
    scores = torch.tensor([[1.0, 4.0, 0.0], [2.0, 3.0, 0.0], [3.0, 2.0, 0.0], [4.0, 1.0, 0.0]])
    figure = report.agreement_figure(rank_correlation(scores), ["a", "b", "flat"])
    report.save_figure(figure, tmp_path / "figure", dpi=40)
    panel = figure.axes[0]
    cells = panel.images[0].get_array().filled(np.nan)
    assert np.array_equal(cells[:2, :2], [[1, -1], [-1, 1]]) and np.isnan(cells[2]).all()
    assert [text.get_text() for text in panel.texts] == ["1", "-1", "-1", "1"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a", "b", "flat"]


class Scores:
    def __init__(self, ids, values, aurocs):
        parts = ["calibration", *["test"] * (len(ids) - 2), "control"]
        self._table = pd.DataFrame({"id": ids, "part": parts, "score": values})
        self._metrics = {"metrics": {column: {"auroc": v, "ap": 0.0} for column, v in aurocs.items()}}

    def table(self, name):
        return self._table

    def json(self, name):
        return self._metrics


def test_scores_of_several_detectors_are_joined_by_id():
    first = Scores(list("zabcx"), [9.0, 1.0, 2.0, 3.0, 9.0], {"score": 0.9, "score/fc1": 0.8})
    second = Scores(list("zdcax"), [9.0, 7.0, 6.0, 5.0, 9.0], {"score": 0.5, "score/all": 0.5})
    assert report.joined_scores({"first": first, "second": second}).tolist() == [[1.0, 5.0], [3.0, 6.0]]
    table = report.layer_aurocs({"first": first, "second": second})
    assert table.to_numpy().tolist() == [
        ["first", "aggregate", 0.9], ["first", "fc1", 0.8], ["second", "aggregate", 0.5], ["second", "all", 0.5],
    ]  # fmt: skip
    strangers = Scores(list("zpqrx"), [0.0] * 5, {"score": 0.5})
    with pytest.raises(DataError, match="first, other scored no common row"):
        report.joined_scores({"first": first, "other": strangers})
