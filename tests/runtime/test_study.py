"""Studies: what a file may say, what flags do to it, and which configurations come out."""

from __future__ import annotations

import pytest

from mad.config import parse
from mad.errors import ConfigError
from mad.runtime.spaces import distribution, expand
from mad.runtime.study import Study, load_study, override, study_names, with_base
from mad.stages._base import chain_config, upstream

CHAIN = chain_config(upstream("report"))
SPACES = [
    {"detector": ["mahalanobis"], "detector.shrinkage": [0.0, 0.1], "detect.aggregation": ["mean", "max"]},
    {"detector": ["que"], "detector.alpha": [1.0, 4.0]},
    {"detector": ["knn"], "detector.k": [1, 5]},
]


def study(*spaces, **settings) -> Study:
    return parse(Study, {"search": list(spaces or SPACES), **settings})


def overridden(found: Study, **flags) -> tuple[list, dict]:
    changed, rest = override(found, CHAIN, {name.replace("__", "."): value for name, value in flags.items()})
    return changed.search, rest


def test_a_file_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text("description: mine\nsearch:\n  - detector.k: [1]\n")
    monkeypatch.chdir(tmp_path)
    assert {"mine", "backdoor"} <= set(study_names())
    assert load_study("mine") == load_study("sweeps/mine.yaml")
    with pytest.raises(ConfigError, match=r"unknown sweep 'backdor' \(did you mean backdoor"):
        load_study("backdor")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("serch: []", r"unknown option 'serch' \(did you mean search\?\)"),
        ("search: []", "search must list at least one space"),
        ("search: {detector: [knn]}", "--search: expected list"),
        ("a: [", "cannot read .*"),
        ("", "expected options, got None"),
        ("metric: auroc", "metric must be one of validation rows"),
        ("metric: val_accuracy", "metric must be one of validation rows"),
        ("metric: val_fpr95", "val_fpr95 is better the other way: set mode to min"),
        ("num_samples: 0", "num_samples must be 1 or more, got 0"),
        ("search: [{detector.k: []}]", r"detector\.k: expected a list of values or one of"),
        ("search: [{detector.k: {uniform: [2, 1]}}]", r"detector\.k: uniform needs \[low, high\]"),
        ("search: [{detector.k: {uniform: [1, a]}}]", r"detector\.k: uniform needs"),
        ("search: [{detector.k: {uniform: [1, .inf]}}]", r"detector\.k: uniform needs"),
        ("search: [{detector.k: {loguniform: [0, 1]}}]", "loguniform needs .* positive"),
        ("search: [{detector.k: {randint: [1.5, 3]}}]", "randint needs .* whole"),
        ("search: [{detector.k: {normal: [0, 1]}}]", r"detector\.k: expected a list of values or one of uniform"),
        ("search: [{detector.k: {choice: 3}}]", r"detector\.k: expected"),
        ("search: [{detector.k: {uniform: [1, 2], choice: [3]}}]", r"detector\.k: expected"),
        ("search: [{detector.k: {}}]", r"detector\.k: expected"),
    ],
)
def test_what_is_malformed_is_told(text, said, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_study(str(file))


def test_dimensions():
    assert distribution("a", [1, 2]) == ("choice", [1, 2])
    assert distribution("a", 5) == ("choice", [5])
    assert distribution("a", {"choice": ["x"]}) == ("choice", ["x"])
    assert distribution("a", {"loguniform": ["1e-4", 1]}) == ("loguniform", [1e-4, 1.0])  # YAML reads 1e-4 as text
    kind, bounds = distribution("a", {"randint": [1, 3.0]})
    assert kind == "randint" and bounds == [1, 3] and [type(b) for b in bounds] == [int, int]


def test_a_searched_option_is_fixed_by_a_flag():
    spaces, rest = overridden(study(), detector__k="3")
    assert spaces[2] == {"detector": ["knn"], "detector.k": ["3"]} and rest == {}
    assert spaces[:2] == SPACES[:2]


def test_a_flag_of_an_option_searched_elsewhere_holds_everywhere():
    spaces, rest = overridden(study(), detect__aggregation="max")
    assert [space["detect.aggregation"] for space in spaces] == [["max"]] * 3 and rest == {}


def test_choosing_a_plugin_keeps_only_its_space():
    assert overridden(study(), detector="knn") == ([SPACES[2]], {})
    spaces, _ = overridden(study({"detector": ["knn", "que"], "detect.aggregation": ["mean", "max"]}), detector="knn")
    assert spaces == [{"detector": ["knn"], "detect.aggregation": ["mean", "max"]}]
    assert overridden(study({"detector": {"choice": ["knn", "que"]}}), detector="que")[0] == [{"detector": ["que"]}]


def test_choosing_a_plugin_that_is_not_searched_drops_the_options_of_the_others():
    spaces, _ = overridden(study(), detector="spectral")
    assert spaces == [{"detector": ["spectral"], "detect.aggregation": ["mean", "max"]}, {"detector": ["spectral"]}]


def test_a_space_without_the_plugin_has_that_of_the_base():
    spaces = [{"detector": ["knn"]}, {"detect.aggregation": ["mean", "max"]}]
    found = study(*spaces, base={"detector": {"name": "que"}})
    assert overridden(found, detector="que")[0] == [{**spaces[1], "detector": ["que"]}]
    assert overridden(study(*spaces), detector="mahalanobis")[0] == [{**spaces[1], "detector": ["mahalanobis"]}]


def test_an_option_of_a_searched_plugin_holds_where_it_exists():
    spaces, rest = overridden(study(), detector__rcond="0.1")
    assert spaces[0]["detector.rcond"] == ["0.1"] and rest == {}
    assert not any("detector.rcond" in space for space in spaces[1:] if space["detector"] == ["knn"])
    both, _ = overridden(study({"detector": ["knn", "mahalanobis"]}), detector__k="3")
    assert both == [{"detector": ["knn"], "detector.k": ["3"]}, {"detector": ["mahalanobis"]}]


def test_a_plugin_inside_a_section_is_chosen_the_same_way():
    space = {"task.trigger": ["corner", "noise"], "detector": ["knn"]}
    assert overridden(study(space), task__trigger="noise") == ([{**space, "task.trigger": ["noise"]}], {})
    spaces, rest = overridden(study(space), task__trigger__std="0.5")
    assert spaces == [
        {"task.trigger": ["noise"], "detector": ["knn"], "task.trigger.std": ["0.5"]},
        {"task.trigger": ["corner"], "detector": ["knn"]},
    ]
    assert rest == {}
    spaces, rest = overridden(study(space), task__trigger="noise", task__trigger__std="0.5", task__poison_rate="0.2")
    assert spaces == [{"task.trigger": ["noise"], "detector": ["knn"], "task.trigger.std": ["0.5"]}]
    assert rest == {"task.poison_rate": "0.2"}


def test_a_searched_seed_is_fixed_without_losing_the_rest():
    spaces, rest = overridden(study({"seed": [0, 1, 2], "detector": ["knn"]}), seed="1")
    assert spaces == [{"seed": ["1"], "detector": ["knn"]}] and rest == {}


def test_what_is_not_searched_goes_to_the_base():
    found = study()
    assert overridden(found, task__poison_rate="0.2", model="cnn", detect__bootstrap="0") == (
        found.search,
        {"task.poison_rate": "0.2", "model": "cnn", "detect.bootstrap": "0"},
    )


def test_an_option_of_no_searched_plugin_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown option '--detector\.shrinkag' \(did you mean detector\.shrinkage"):
        overridden(study(), detector__shrinkag="1")


def test_settings_are_overridden_by_bare_flags():
    flags = {"num_samples": "4", "algorithm": "random", "metric": "val_ap", "concurrency": "2"}
    changed, rest = override(study(), CHAIN, flags)
    assert (changed.num_samples, changed.algorithm, changed.metric, changed.concurrency) == (4, "random", "val_ap", 2)
    assert rest == {} and changed.search == SPACES
    assert override(changed, CHAIN, {"metric": "val_fpr95", "mode": "min"})[0].mode == "min"
    with pytest.raises(ConfigError, match="--algorithm: expected 'grid'"):
        override(study(), CHAIN, {"algorithm": "grd"})


def test_an_override_leaves_the_study_alone():
    found = study()
    overridden(found, detector="knn", detector__k="3")
    assert found.search == SPACES


def test_a_grid_is_every_combination():
    configs = expand(study(), seed=0)
    assert len(configs) == 2 * 2 + 2 + 2
    assert configs[0] == {"detector": "mahalanobis", "detector.shrinkage": 0.0, "detect.aggregation": "mean"}
    assert len({repr(c) for c in configs}) == 8
    assert expand(study({}), seed=0) == [{}]


def test_a_grid_over_a_distribution_is_refused():
    with pytest.raises(ConfigError, match=r"detector\.k: a grid needs a list of values, got randint"):
        expand(study({"detector.k": {"randint": [1, 9]}}), seed=0)


def test_a_subset_of_a_grid_is_drawn_by_the_seed():
    grid = expand(study(), seed=0)
    few = study(num_samples=4)
    assert expand(few, 0) == expand(few, 0) != expand(few, 1)
    chosen = expand(few, 0)
    assert len(chosen) == 4 and [c for c in grid if c in chosen] == chosen
    assert expand(study(num_samples=100), 0) == grid


def test_random_draws_follow_the_seed_and_keep_within_bounds():
    space = {
        "detector": ["knn", "que"],
        "detector.k": {"randint": [1, 3]},
        "detect.rate": {"uniform": [0.25, 0.5]},
        "x": {"loguniform": [1e-4, 1.0]},
        "y": {"choice": ["a", "b"]},
    }
    found = study(space, {"detector": ["spectral"]}, algorithm="random", num_samples=200)
    draws = expand(found, 0)
    assert draws == expand(found, 0) != expand(found, 1) and len(draws) == 200
    first = [d for d in draws if d["detector"] != "spectral"]
    assert 60 < len(first) < 140, "every space is drawn equally often"
    assert {d["detector.k"] for d in first} == {1, 2, 3} and {d["y"] for d in first} == {"a", "b"}
    assert all(0.25 <= d["detect.rate"] <= 0.5 and 1e-4 <= d["x"] <= 1 for d in first)
    assert 20 < sum(d["x"] < 1e-2 for d in first) < len(first) - 20, "loguniform is even over magnitudes"
    assert expand(study(algorithm="random"), 0) and len(expand(study(algorithm="random"), 0)) == 16


def test_a_settings_file_goes_over_the_base():
    found = study(base={"task": {"name": "backdoor", "dataset": "digits", "poison_rate": 0.1}, "model": "mlp"})
    changed = with_base(found, {"task": {"poison_rate": 0.2}, "model": "cnn"})
    assert changed.base["task"] == {"name": "backdoor", "dataset": "digits", "poison_rate": 0.2}
    assert changed.base["model"] == {"name": "cnn"} and found.base["model"] == "mlp"


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_is_valid(name):
    found = load_study(name)
    assert found.description
    for config in expand(found, 0)[:1] if found.algorithm != "optuna" else []:
        assert config
