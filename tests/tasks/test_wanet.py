import pytest
import torch

from mad.errors import ConfigError
from mad.tasks import backdoor
from mad.tasks.triggers import wanet

SHAPE = (3, 12, 16)


def images(n=5, shape=SHAPE):
    """Smooth images, so that a small shift changes them a little."""
    coarse = torch.rand(n, shape[0], 3, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear", align_corners=True)


def warp(inputs, seed=3, **options):
    config = wanet.Config(**options)
    return wanet.apply(
        config, wanet.state(config, tuple(inputs.shape[1:]), seed), inputs, torch.arange(len(inputs)), seed
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 16), (3, 16, 12)])
def test_an_infinitesimal_warp_is_the_identity_not_the_transpose(shape):
    """The old code swapped rows and columns of the grid: a warp of 1e-6 gave the transposed image."""
    inputs = images(4, shape)
    torch.testing.assert_close(warp(inputs, strength=1e-6), inputs, atol=1e-5, rtol=0)
    assert (inputs - inputs.flip(2)).abs().max() > 0.1 and (inputs - inputs.flip(3)).abs().max() > 0.1


def test_the_change_grows_with_the_strength_from_nothing():
    inputs = images()
    changes = [float((warp(inputs, strength=s) - inputs).abs().mean()) for s in (0.01, 0.02, 0.5)]
    assert changes[1] == pytest.approx(2 * changes[0], rel=0.05) and changes[2] > 10 * changes[1]


def test_field_is_the_interpolated_shift_of_the_control_points():
    """With as many control points as pixels nothing is interpolated: shifts of mean size s half pixels."""
    size = 12
    config = wanet.Config(grid_size=size, strength=0.01)
    grid = wanet.state(config, (1, size, size), 0)["grid"].double()
    line = torch.linspace(-1, 1, size, dtype=torch.float64)
    shift = (grid - torch.stack(torch.meshgrid(line, line, indexing="xy"), -1))[1:-1, 1:-1] * size / config.strength
    assert float(shift.abs().mean()) == pytest.approx(1, abs=0.1)
    assert shift.abs().max() < 2.5 and -0.15 < shift.mean() < 0.15


def test_a_place_is_column_then_row():
    """A shift along x moves along the columns: every pixel of the first row takes its value from the first row."""
    config = wanet.Config(grid_size=2, strength=0.5)
    inputs = torch.zeros(1, 1, 9, 15)
    inputs[..., 7] = 1
    state = {"grid": wanet.state(config, (1, 9, 15), 0)["grid"].clone()}
    line = torch.linspace(-1, 1, 9)
    state["grid"][..., 1] = line[:, None]
    state["grid"][..., 0] = torch.linspace(-1, 1, 15) + 2 * 2 / 14
    moved = wanet.apply(config, state, inputs, torch.arange(1), 0)
    expected = torch.zeros_like(inputs)
    expected[..., 5] = 1
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_rescaling_enlarges_about_the_centre():
    inputs = torch.zeros(1, 1, 9, 9)
    inputs[..., 4, 4] = inputs[..., 4, 6] = 1
    large = warp(inputs, strength=1e-6, grid_rescale=0.5)
    assert large[0, 0, 4, 4] == pytest.approx(1, abs=1e-4) and large[0, 0, 4, 8] == pytest.approx(1, abs=1e-4)


def test_field_is_fixed_by_the_seed():
    grids = [wanet.state(wanet.Config(), SHAPE, seed)["grid"] for seed in (5, 5, 6)]
    assert torch.equal(grids[0], grids[1]) and not torch.equal(grids[0], grids[2])


def test_decoys_have_noise_of_their_own_of_up_to_half_a_pixel():
    inputs, rows = images(6), torch.tensor([4, 9, 70000, 1, 2, 3])
    config = wanet.Config()
    state = wanet.state(config, SHAPE, 3)
    same = inputs[:1].expand(6, -1, -1, -1).contiguous()
    result = wanet.decoys(config, state, same, rows, 3)
    assert not torch.equal(result[0], result[1])
    assert not torch.equal(result[:1], wanet.apply(config, state, same[:1], rows[:1], 3))
    singly = torch.cat([wanet.decoys(config, state, inputs[i : i + 1], rows[i : i + 1], 3) for i in range(6)])
    assert torch.equal(singly, wanet.decoys(config, state, inputs, rows, 3))
    # A ramp along x shows the shift in pixels: pixel j holds j / 15.
    ramp = (torch.arange(16.0) / 15).expand(200, 1, 12, 16)
    still = {"grid": wanet.state(wanet.Config(strength=1e-6), SHAPE, 3)["grid"]}
    shift = 15 * (wanet.decoys(config, still, ramp, torch.arange(200), 3) - ramp)[..., 1:-1]
    assert shift.abs().max() <= 15 / 32 + 1e-4 and float(shift.abs().mean()) == pytest.approx(15 / 64, rel=0.02)
    assert abs(float(shift.mean())) < 0.01


def test_more_control_points_than_pixels():
    with pytest.raises(ConfigError, match="grid_size 4 is larger than the 1x2 images"):
        wanet.state(wanet.Config(), (1, 1, 2), 0)


@pytest.fixture(scope="module")
def rows():
    return backdoor.build(backdoor.Config(trigger=wanet.Config()), 0)


def decoys_of(rows):
    table = rows.table
    return table[(table["variant"] >= 0) & ~table["is_anomalous"] & (table["control"] == "")]


def test_noise_mode_warps_two_train_rows_per_poisoned_row_and_leaves_their_labels(rows):
    train, decoys = rows.table[rows.table["part"] == "train"], decoys_of(rows)
    poisoned = int(train["is_anomalous"].sum())
    assert poisoned == round(0.1 * len(train)) and len(decoys) == 2 * poisoned == rows.facts["decoy_rows"]
    assert (decoys["part"] == "train").all() and (decoys["label"] == decoys["clean_label"]).all()
    trusted = rows.table[rows.table["part"] == "trusted"]
    assert not set(trusted["source"]) & set(decoys["source"])
    assert len(trusted) == len(train) - 3 * poisoned and (trusted["variant"] == -1).all()
    share = decoys["clean_label"].value_counts(normalize=True)
    assert abs(share - 0.1).max() < 0.03, "decoys are of all classes, the target too"


def test_poisoned_rows_are_warped_by_the_field_and_decoys_by_their_own(rows):
    config, changed = wanet.Config(), {}
    anomalous = rows.table[rows.table["is_anomalous"]]
    for name, table in (("poisoned", anomalous), ("decoys", decoys_of(rows))):
        source = torch.tensor(table["source"].to_numpy())
        variants = rows.variants[torch.tensor(table["variant"].to_numpy())]
        clean = rows.inputs[source].float() / rows.scale
        by_field = wanet.apply(config, rows.state, clean, source, 0)
        changed[name] = float((variants - by_field).abs().mean())
    assert changed["poisoned"] == 0 and changed["decoys"] > 0.01


def test_decoys_are_the_same_in_any_batch_and_change_no_other_choice(rows, monkeypatch):
    monkeypatch.setattr(backdoor, "TRIGGER_BATCH", 7)
    assert torch.equal(backdoor.build(backdoor.Config(trigger=wanet.Config()), 0).variants, rows.variants)
    without = backdoor.build(backdoor.Config(trigger=wanet.Config(noise_ratio=0.0)), 0)
    plain = backdoor.build(backdoor.Config(), 0)
    assert len(decoys_of(without)) == without.facts["decoy_rows"] == 0
    assert without.table.equals(plain.table), "the same rows as with a trigger that has no decoys"
    parts = ~rows.table["part"].isin(["train", "trusted", "control"])
    assert (
        rows.table.loc[parts, "id"].tolist()
        == plain.table.loc[~plain.table["part"].isin(["train", "trusted", "control"]), "id"].tolist()
    )
    poisoned = [set(r.table.loc[(r.table["part"] == "train") & r.table["is_anomalous"], "id"]) for r in (rows, plain)]
    assert poisoned[0] == poisoned[1]


@pytest.mark.parametrize("options", [{"target": "cycle_class"}, {"clean_label": True, "poison_rate": 0.05}])
def test_labels_follow_the_task_whatever_the_trigger(options):
    """The old code's WaNet ignored the kind of target."""
    rows = backdoor.build(backdoor.Config(trigger=wanet.Config(), **options), 0)
    plain = backdoor.build(backdoor.Config(**options), 0)
    keys = ["id", "label", "clean_label", "is_anomalous"]
    tables = [r.table[r.table["part"] == "train"][keys].sort_values("id").reset_index(drop=True) for r in (rows, plain)]
    assert tables[0].equals(tables[1])


def test_no_poison_no_decoys():
    rows = backdoor.build(backdoor.Config(trigger=wanet.Config(), poison_rate=0.0), 0)
    assert rows.facts["decoy_rows"] == 0 and len(decoys_of(rows)) == 0
