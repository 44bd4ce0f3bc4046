"""Strict configs: what is parsed, what is refused and how, and what enters a fingerprint."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from mad import registry
from mad.config import (
    canonical,
    canonical_json,
    describe,
    find_field,
    fingerprint,
    merge,
    merge_flags,
    nest,
    parse,
    placement,
    plugin,
    require,
    split_flags,
    to_data,
)
from mad.errors import ConfigError, nearest
from mad.runtime.options import RunOptions
from mad.runtime.study import Study
from mad.runtime.upkeep import COMMANDS
from mad.stages._base import chain_config, load_stage, upstream

KINDS = [(kind, name) for kind in ("tasks", "triggers", "models", "detectors") for name in registry.names(kind)]


@dataclass(frozen=True)
class Inner:
    """Inner options."""

    depth: int = 2
    """how deep"""
    widths: list[float] = field(default_factory=lambda: [1.0])
    """how wide"""


@dataclass(frozen=True)
class Outer:
    """All kinds of options."""

    count: int = 1
    """how many"""
    rate: float = 0.5
    """how much"""
    name: str = "x"
    """what"""
    on: bool = False
    """whether"""
    names: list[str] = field(default_factory=list)
    """which"""
    limit: int | None = None
    """at most"""
    shrink: float | Literal["auto"] = "auto"
    """how far"""
    detector: Any = plugin("detectors", "knn")
    """plug-in"""
    inner: Inner = field(default_factory=Inner)
    workers: int = placement(0)
    """where"""

    def __post_init__(self) -> None:
        require(self.count >= 1, f"count must be 1 or more, got {self.count}")


@pytest.mark.parametrize(
    ("option", "given", "parsed"),
    [
        ("count", "3", 3),
        ("rate", "1e-4", 1e-4),
        ("rate", 1, 1.0),
        ("name", "5", "5"),
        ("name", "null", "null"),
        ("name", "a: b", "a: b"),
        ("on", "true", True),
        ("on", "False", False),
        ("names", "[a, b]", ["a", "b"]),
        ("names", "[layers.*.output]", ["layers.*.output"]),
        ("names", ["a"], ["a"]),
        ("limit", "null", None),
        ("limit", None, None),
        ("limit", "7", 7),
        ("shrink", "auto", "auto"),
        ("shrink", "0", 0.0),
    ],
)
def test_strings_become_the_type_of_the_field(option, given, parsed):
    value = getattr(parse(Outer, {option: given}), option)
    assert value == parsed and type(value) is type(parsed)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"cuont": 1}, "unknown option 'cuont' (did you mean count?)"),
        ({"inner": {"dpeth": 1}}, "unknown option 'inner.dpeth' (did you mean depth?)"),
        ({"detector": {"name": "knn", "zz": 1}}, "unknown option 'detector.zz' (choose from: aggregate, k, metric)"),
        ({"detector": "kn"}, "unknown detector 'kn' (did you mean knn?)"),
        ({"detector": ["knn"]}, "--detector: expected the name of a detector, got ['knn']"),
        ({"count": "1.5"}, "--count: expected int, got '1.5'"),
        ({"count": True}, "--count: expected int, got True"),
        ({"count": None}, "--count: expected int, got None"),
        ({"rate": "much"}, "--rate: expected float, got 'much'"),
        ({"rate": True}, "--rate: expected float, got True"),
        ({"rate": math.nan}, "--rate: expected float, got nan"),
        ({"inner": {"widths": [math.inf]}}, "--inner.widths: expected list[float] (written '[a, b]'), got [inf]"),
        ({"name": 5}, "--name: expected str, got 5"),
        ({"on": 1}, "--on: expected bool, got 1"),
        ({"names": "a"}, "--names: expected list[str] (written '[a, b]'), got 'a'"),
        ({"shrink": "none"}, "--shrink: expected float | 'auto', got 'none'"),
        ({"inner": {"depth": "x"}}, "--inner.depth: expected int, got 'x'"),
        ({"inner": "deep"}, "inner: expected options, got 'deep'"),
        ({"count": 0}, "count must be 1 or more, got 0"),
        ({"detector": {"name": "knn", "k": 0}}, "detector: k must be at least 1, got 0"),
        (None, "config: expected options, got None"),
    ],
)
def test_what_is_wrong_is_told_with_its_value(data, said):
    with pytest.raises(ConfigError) as error:
        parse(Outer, data)
    assert str(error.value) == said


def test_parsing_leaves_the_given_data_alone():
    data = {"inner": {"widths": [1, 2]}}
    assert parse(Outer, data).inner.widths == [1.0, 2.0]
    assert [type(w) for w in data["inner"]["widths"]] == [int, int]


def test_switching_a_plugin_drops_the_options_of_the_old_one():
    base = {"detector": {"name": "mahalanobis", "shrinkage": 0.5}, "count": 2}
    assert merge(Outer, base, {"detector": "knn"}) == {"detector": {"name": "knn"}, "count": 2}
    assert merge(Outer, base, {"detector": {"name": "knn", "k": 3}})["detector"] == {"name": "knn", "k": 3}
    assert merge(Outer, base, {"detector": "mahalanobis"})["detector"] == base["detector"]
    assert merge(Outer, base, {"detector": {"rcond": 0.1}})["detector"] == {**base["detector"], "rcond": 0.1}
    assert base["detector"] == {"name": "mahalanobis", "shrinkage": 0.5}


def test_options_of_the_default_plugin_need_no_name():
    assert merge(Outer, {}, {"detector": {"k": 3}})["detector"] == {"name": "knn", "k": 3}
    assert parse(Outer, {"detector": {"k": 3}}).detector.k == 3


def test_a_plugin_is_chosen_before_its_options():
    flags = {"detector.shrinkage": "0.1", "detector": "mahalanobis"}
    assert parse(Outer, merge_flags(Outer, {}, flags)).detector.shrinkage == 0.1


def test_nested_sections_are_merged_and_scalars_replaced():
    merged = merge(
        Outer, {"inner": {"depth": 1, "widths": [3.0]}, "names": ["a"]}, {"inner": {"depth": 5}, "names": []}
    )
    assert merged == {"inner": {"depth": 5, "widths": [3.0]}, "names": []}
    assert nest("a.b.c", 1) == {"a": {"b": {"c": 1}}}


def test_flags_are_read():
    words = ["--a", "1", "--b.c=x=y", "--bare", "--list", "[a, b]", "--minus", "-1", "--last"]
    assert split_flags(words) == {
        "a": "1",
        "b.c": "x=y",
        "bare": "true",
        "list": "[a, b]",
        "minus": "-1",
        "last": "true",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a"], "unexpected argument 'a': options are written --name VALUE"),
        (["--a", "1", "2"], "unexpected argument '2': options are written --name VALUE"),
        (["--"], "unexpected argument '--': options are written --name VALUE"),
        (["-h"], "unexpected argument '-h': options are written --name VALUE"),
        (["--a", "1", "--a", "2"], "--a is given twice"),
    ],
)
def test_words_that_are_no_flags_are_refused(words, said):
    with pytest.raises(ConfigError) as error:
        split_flags(words)
    assert str(error.value) == said


def test_placement_stays_out_of_the_canonical_form_only():
    there, here = Outer(workers=8), Outer(workers=0)
    assert canonical(there) == canonical(here) and "workers" not in canonical(there)
    assert to_data(there)["workers"] == 8
    task = parse(registry.load("tasks", "backdoor").Config, {"root": "/a", "download": "true"})
    assert fingerprint(canonical(task, "tasks")) == fingerprint(canonical(type(task)(), "tasks"))


def test_one_value_has_one_spelling():
    assert canonical_json({"b": 1.0, "a": [2.0, -0.0, 0.5, True]}) == '{"a":[2,0,0.5,true],"b":1}'
    noise = registry.load("triggers", "noise").Config
    parsed = {fingerprint(canonical(parse(noise, {"std": std}), "triggers")) for std in (1, 1.0, "1", "1.0", "1e0")}
    assert parsed == {fingerprint(canonical(noise(std=1), "triggers"))} != {fingerprint(canonical(noise(), "triggers"))}
    assert fingerprint({"a": True}) != fingerprint({"a": 1})


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_every_plugin_config_survives_the_round_trip(kind, name):
    module = registry.load(kind, name)
    config = module.Config()
    data = to_data(config, kind)
    assert data["name"] == name == registry.name_of(kind, module.__name__)
    rest = {k: v for k, v in data.items() if k != "name"}
    again = parse(module.Config, rest)
    assert again == config and type(again) is module.Config
    assert canonical_json(canonical(again, kind)) == canonical_json(canonical(config, kind))
    assert dataclasses.fields(module.Config) == () or module.Config.__dataclass_params__.frozen


@pytest.mark.parametrize("stage", registry.names("stages"))
def test_every_chain_survives_the_round_trip(stage):
    cls = chain_config(upstream(stage))
    assert to_data(parse(cls, to_data(cls()))) == to_data(cls())
    own = load_stage(stage).Config
    assert parse(own, to_data(own())) == own()


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_every_option_of_a_plugin_has_a_meaning(kind, name):
    options = describe(registry.load(kind, name).Config, {})
    assert [o.name for o in options if not o.help] == []


@pytest.mark.parametrize("stage", registry.names("stages"))
def test_every_option_of_a_stage_has_a_meaning(stage):
    options = describe(chain_config(upstream(stage)), {})
    assert [o.name for o in options if not o.help] == []
    assert len({o.name for o in options}) == len(options)


@pytest.mark.parametrize("cls", [RunOptions, Study, *(options for options, _ in COMMANDS.values())])
def test_every_option_of_a_command_has_a_meaning(cls):
    assert [o.name for o in describe(cls, {}) if not o.help] == []


def test_help_shows_the_options_of_the_chosen_plugin():
    options = {o.name: o for o in describe(Outer, {"detector": {"name": "mahalanobis", "rcond": "0.1"}})}
    assert options["detector"].default == "mahalanobis" and "knn" in options["detector"].type.split("|")
    assert options["detector.rcond"].default == "0.1" and "detector.k" not in options
    assert options["inner.depth"] == ("inner.depth", "int", 2, "how deep")
    assert options["shrink"].type == "float | 'auto'" and options["limit"].type == "int | null"


def test_fields_are_found_by_dotted_name():
    assert find_field(Outer, {}, "inner.depth").name == "depth"
    assert find_field(Outer, {}, "detector.k").name == "k"
    assert find_field(Outer, {"detector": "mahalanobis"}, "detector.k") is None
    assert find_field(Outer, {}, "count.k") is None and find_field(Outer, {}, "nothing") is None
    assert find_field(Outer, {}, "detector").metadata["plugin"] == "detectors"


def test_nearest_names():
    assert nearest("konstant", ["constant", "cosine"]) == " (did you mean constant?)"
    assert nearest("zzz", ["b", "a", "a"]) == " (choose from: a, b)"
    assert nearest("x", []) == ""
    assert nearest("", [f"name{i:02}" for i in range(30)]).endswith("name19, ...)")
