import pytest

from mad import config as configs
from mad.errors import ConfigError, DataError
from mad.tasks import backdoor
from mad.tasks.triggers import corner, noise, wanet


def test_config_is_parsed_and_places_stay_out_of_its_canonical_form():
    data = {
        "trigger": {"name": "noise", "std": 0.5},
        "target": "cycle_class",
        "root": "elsewhere",
        "classes": [0, 1],
    }
    parsed = configs.parse(backdoor.Config, data)
    assert parsed.trigger == noise.Config(std=0.5)
    canonical = configs.canonical(parsed, "tasks")
    assert canonical["name"] == "backdoor" and canonical["trigger"]["name"] == "noise"
    assert "root" not in canonical and "download" not in canonical
    assert configs.parse(backdoor.Config, {}).trigger == corner.Config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "mnsit"}, "unknown data set 'mnsit' .did you mean .*mnist"),
        ({"poison_rate": 1.0}, "poison_rate"),
        ({"poison_rate": -0.1}, "poison_rate"),
        ({"poison_rate": float("nan")}, "poison_rate"),
        ({"trusted_fraction": 0.0}, "trusted_fraction must lie in"),
        ({"calibration_fraction": 0.0}, "calibration_fraction must lie in"),
        ({"untrusted_fraction": -0.1}, "untrusted_fraction must lie in"),
        ({"calibration_fraction": 0.5, "untrusted_fraction": 0.5}, "must be below 1, got 1"),
        ({"test_fraction": 1.0}, "test_fraction must lie in"),
        ({"validation_fraction": 1.0}, "validation_fraction must lie in"),
        ({"anomalous_fraction": 1.1}, "anomalous_fraction must lie in"),
        ({"untrusted_anomalous_fraction": -0.1}, "untrusted_anomalous_fraction must lie in"),
        ({"target_class": 10}, r"target_class must lie in 0\.\.9, got 10"),
        ({"target_class": -1}, "target_class must lie in"),
        ({"target_class": 2, "classes": [4, 5]}, r"target_class must lie in 0\.\.1, got 2"),
        ({"target": "nobody"}, "target: expected 'fixed_class' | 'cycle_class', got 'nobody'"),
        ({"classes": [3]}, "classes needs at least two entries"),
        ({"classes": []}, "classes needs at least two entries"),
        ({"classes": [3, 3]}, "classes must be distinct"),
        ({"classes": [3, 10]}, r"classes must be distinct and lie in 0\.\.9"),
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"clean_label": True, "target": "cycle_class"}, "clean_label needs target fixed_class"),
        ({"trigger": "cornr"}, "unknown trigger 'cornr' .did you mean corner"),
        (
            {"controls": ["noise", "nois"]},
            r"controls must be distinct and among noise, trigger, dataset, got \['noise', ",
        ),
        ({"controls": ["noise", "noise"]}, "controls must be distinct"),
        ({"control_rows": 0}, "control_rows must be at least 1"),
        ({"control_noise": 0.0}, "control_noise must be above 0"),
        ({"control_trigger": "corner"}, "control_trigger must differ from trigger"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        configs.parse(backdoor.Config, options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"poison_rate": 0.95}, ConfigError, "only .* may be poisoned: use at most 0.9"),
        ({"clean_label": True, "poison_rate": 0.2}, ConfigError, "only .* may be poisoned: use at most 0.09"),
        ({"poison_rate": 1e-4}, ConfigError, "is 0 rows: use more rows or a higher rate"),
        ({"max_rows": 1, "poison_rate": 0.0}, DataError, "the part '.*' would be empty"),
        ({"max_rows": 15}, DataError, "too few rows for these fractions: the part"),
        (
            {"test_fraction": 0.002, "anomalous_fraction": 0.1, "untrusted_fraction": 0.0},
            DataError,
            "the part 'validation' would have no anomalous rows",
        ),
        ({"trusted_fraction": 1e-5}, DataError, "the part 'trusted' would be empty"),
        ({"trigger": corner.Config(size=9)}, ConfigError, "size 9 is larger than the 8x8 images"),
        ({"control_trigger": corner.Config(size=9)}, ConfigError, "size 9 is larger than the 8x8 images"),
        (
            {"trigger": wanet.Config(), "poison_rate": 0.4},
            ConfigError,
            "asks for 804 decoys, and 604 of 1006 train rows",
        ),
        ({"dataset": "mnist"}, DataError, "--task.root"),
    ],
)
def test_rows_that_cannot_be_had(options, kind, message):
    with pytest.raises(kind, match=message) as error:
        backdoor.build(backdoor.Config(**options), 0)
    assert "\n" not in str(error.value)
