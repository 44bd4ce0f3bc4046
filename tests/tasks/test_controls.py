import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from mad.errors import ConfigError
from mad.tasks import _controls, _images, adversarial, backdoor
from mad.tasks.triggers import blended, corner, noise, patch
from tests.tasks.layouts import write_cifar10, write_gtsrb, write_mnist


def of_kind(rows, kind):
    return rows.table[rows.table["control"] == kind]


def variants(rows, table):
    return rows.variants[torch.tensor(table["variant"].to_numpy())]


def clean(rows, table):
    return rows.inputs[torch.tensor(table["source"].to_numpy())].float() / rows.scale


@pytest.fixture(scope="module")
def rows():
    return backdoor.build(backdoor.Config(), 0)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A folder with digits as MNIST and, from the other end, as Fashion-MNIST."""
    root = write_mnist(tmp_path_factory.mktemp("data"), 400, 150)
    return str(write_mnist(root, 500, 250, kind="FashionMNIST"))


@pytest.mark.parametrize("task", [backdoor, adversarial])
def test_table_follows_the_contract(task):
    rows = task.build(task.Config(), 0)
    control = rows.table[rows.table["part"] == "control"]
    assert rows.table["part"].iloc[-1] == "control" and control.index[0] == len(rows.table) - len(control)
    assert control["control"].drop_duplicates().tolist() == list(_controls.KINDS) and not control["is_anomalous"].any()
    assert all(rows.table[c].dtype == "int64" for c in ("source", "variant", "label", "clean_label"))
    assert rows.table["is_anomalous"].dtype == bool and rows.table["id"].is_unique
    assert control["variant"].tolist() == list(range(len(rows.variants) - len(control), len(rows.variants)))
    assert 0 <= rows.variants.min() <= rows.variants.max() <= 1 and torch.isfinite(rows.variants).all()
    assert (control["label"] == control["clean_label"]).all()
    assert rows.facts["controls"] == control.groupby("control").size().to_dict()


def test_noise_and_trigger_controls_are_clean_rows_of_the_test_part(rows):
    test = rows.table[(rows.table["part"] == "test") & ~rows.table["is_anomalous"]].set_index("source")
    for kind in ("noise", "trigger"):
        found = of_kind(rows, kind)
        assert len(found) == len(test) == 127 and set(found["source"]) == set(test.index)
        assert (test.loc[found["source"], "clean_label"].to_numpy() == found["label"].to_numpy()).all()
        numbers = test.loc[found["source"], "id"].str.removeprefix("test-")
        assert found["id"].tolist() == [f"control_{kind}-{number}" for number in numbers]


def test_noise_controls_have_gaussian_noise():
    rows = backdoor.build(backdoor.Config(control_noise=0.05), 0)
    found = of_kind(rows, "noise")
    images = clean(rows, found)
    added = (variants(rows, found) - images)[(images > 0.3) & (images < 0.7)]
    assert abs(float(added.std()) - 0.05) < 0.002 and abs(float(added.mean())) < 0.003


def test_trigger_controls_carry_the_other_trigger(rows):
    found = of_kind(rows, "trigger")
    expected = 0.8 * clean(rows, found) + 0.2 * rows.state["control_pattern"]
    torch.testing.assert_close(variants(rows, found), expected)
    assert rows.facts["control_trigger"] == "blended" and "mask" in rows.state
    other = backdoor.build(backdoor.Config(control_trigger=corner.Config(corner="bottom_right")), 0)
    found = of_kind(other, "trigger")
    expected = clean(other, found)
    expected[:, :, -1, -1] = 1
    assert torch.equal(variants(other, found), expected)


@pytest.mark.parametrize("alpha", [0.2, 0.5])
def test_a_blended_task_has_a_patch_for_control(alpha):
    rows = backdoor.build(backdoor.Config(trigger=blended.Config(alpha=alpha)), 0)
    assert rows.facts["control_trigger"] == "patch" and rows.state["control_mask"].sum() == 9
    given = backdoor.build(backdoor.Config(trigger=blended.Config(), control_trigger=blended.Config(alpha=0.4)), 0)
    assert given.facts["control_trigger"] == "blended"
    assert not torch.equal(given.state["pattern"], given.state["control_pattern"]), "the model never saw this image"


def test_the_task_s_own_trigger_is_no_control():
    for trigger in (patch.Config(), blended.Config(alpha=0.4)):
        with pytest.raises(ConfigError, match="control_trigger must differ from trigger"):
            backdoor.Config(trigger=trigger, control_trigger=trigger)
    backdoor.Config(trigger=patch.Config(), control_trigger=patch.Config(), controls=["noise"])
    rows = backdoor.build(backdoor.Config(trigger=noise.Config()), 0)
    assert list(rows.facts["controls"]) == ["trigger", "dataset"] and not len(of_kind(rows, "noise"))


def test_dataset_controls_of_digits_are_grey_patches_of_photographs(rows):
    found = of_kind(rows, "dataset")
    assert len(found) == 200 and (found["label"] == -1).all() and (found["source"] == 0).all()
    assert rows.facts["control_dataset"] == "sample_images"
    grey = [np.float32(image) @ np.float32(_controls.GREY) / 255 for image in load_sample_images().images]
    windows = [np.lib.stride_tricks.sliding_window_view(image, (8, 8)) for image in grey]
    images = variants(rows, found)[:, 0].numpy()
    of_image = np.zeros(2, int)
    for image in images[:20]:
        near = [np.argwhere(abs(w[:, :, 0, 0] - image[0, 0]) < 1e-4) for w in windows]
        matches = [
            any(np.allclose(windows[i][y, x], image, atol=1e-4) for y, x in places) for i, places in enumerate(near)
        ]
        assert any(matches), "each is a window of one of the photographs"
        of_image += matches
    assert (of_image > 0).all() and len(np.unique(images.reshape(200, -1), axis=0)) > 190


def test_patches_reach_every_edge_and_do_not_depend_on_each_other():
    photographs = _controls._photographs()
    count, height, width, _ = photographs.shape
    found = _controls._patches(torch.arange(40), (3, height - 1, width - 1), 0)  # 2 x 2 places in each
    starts = {tuple((255 * p[:, 0, 0]).round().long().tolist()) for p in found}
    expected = {tuple(photographs[i, y, x].tolist()) for i in range(count) for y in (0, 1) for x in (0, 1)}
    assert starts == expected
    few = _controls._patches(torch.tensor([7, 3]), (3, 16, 16), 0)
    many = _controls._patches(torch.arange(10), (3, 16, 16), 0)
    assert torch.equal(few, many[[7, 3]])


@pytest.mark.parametrize(("dataset", "sibling"), [("mnist", "fashion_mnist"), ("fashion_mnist", "mnist")])
def test_dataset_controls_come_from_the_sibling_where_it_is_there(both, dataset, sibling):
    config = backdoor.Config(dataset=dataset, root=both, control_rows=60)
    rows = backdoor.build(config, 0)
    found = of_kind(rows, "dataset")
    assert rows.facts["control_dataset"] == sibling and len(found) == 60
    other = _images.load(sibling, both, False)
    numbers = torch.tensor(found["id"].str[-6:].astype(int).to_numpy())
    assert other.is_test[numbers].all() and len(numbers.unique()) == 60
    assert torch.equal(variants(rows, found), other.inputs[numbers].float() / 255)
    assert backdoor.control_digest(config) == f"{sibling} {_images.digest(sibling, both, False)}"


def test_without_the_sibling_patches_stand_in_and_the_digest_tells(tmp_path):
    root = str(write_mnist(tmp_path, 400, 150))
    config = backdoor.Config(dataset="mnist", root=root)
    rows, alone = backdoor.build(config, 0), backdoor.control_digest(config)
    assert rows.facts["control_dataset"] == "sample_images" and alone.startswith("sample_images ")
    assert variants(rows, of_kind(rows, "dataset")).shape[1:] == (1, 28, 28)
    own = backdoor.digest(config)
    write_mnist(tmp_path, 500, 250, kind="FashionMNIST")
    assert backdoor.control_digest(config) != alone and backdoor.digest(config) == own
    assert backdoor.control_digest(backdoor.Config(dataset="mnist", root=root, controls=["noise"])) == ""


def test_cifar10_and_gtsrb_are_each_other_s_controls(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    _, _, sums = write_cifar10(tmp_path, 40)
    for attribute in ("train_list", "test_list"):
        known = [[name, sums[name]] for name, _ in getattr(CIFAR10, attribute)]
        monkeypatch.setattr(CIFAR10, attribute, known)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    options = {"root": str(tmp_path), "poison_rate": 0.0, "control_rows": 5}
    rows = backdoor.build(backdoor.Config(dataset="cifar10", **options), 0)
    assert rows.facts["control_dataset"] == "sample_images"
    assert variants(rows, of_kind(rows, "dataset")).shape == (5, 3, 32, 32)
    write_gtsrb(tmp_path)
    rows = backdoor.build(backdoor.Config(dataset="cifar10", **options), 0)
    assert rows.facts["control_dataset"] == "gtsrb"
    red = 255 * variants(rows, of_kind(rows, "dataset"))[:, 0, 5, 5]
    assert set(red.round().int().tolist()) <= {0, 7, 14, 21, 28, 35}, "test signs"


def test_number_and_kinds_of_controls_and_none():
    few = backdoor.build(backdoor.Config(control_rows=10, controls=["dataset", "noise"]), 0)
    assert few.facts["controls"] == {"noise": 10, "dataset": 10} and "control_trigger" not in few.facts
    none = backdoor.build(backdoor.Config(controls=[]), 0)
    assert none.facts["controls"] == {} and "control" not in set(none.table["part"])
    assert len(none.variants) == none.table["is_anomalous"].sum()
    # Controls change no other row.
    whole = backdoor.build(backdoor.Config(), 0)
    assert whole.table[whole.table["part"] != "control"].equals(none.table)
    assert torch.equal(whole.variants[: len(none.variants)], none.variants)


def test_another_seed_gives_other_controls(rows):
    other = backdoor.build(backdoor.Config(), 1)
    for kind in _controls.KINDS:
        assert set(of_kind(other, kind)["id"]) != set(of_kind(rows, kind)["id"]) or kind == "dataset"
    assert not torch.equal(*(variants(r, of_kind(r, "dataset")) for r in (rows, other)))
    assert not torch.equal(rows.state["control_pattern"], other.state["control_pattern"])


def test_a_test_part_of_triggered_rows_only_gives_no_images_to_change():
    rows = backdoor.build(backdoor.Config(anomalous_fraction=1.0), 0)
    assert rows.facts["controls"] == {"noise": 0, "trigger": 0, "dataset": 200}


def test_other_controls_do_not_pass_for_another_data_set(world, run):
    """Rows the model was trained on stay refused as held-out rows, whatever the controls are made of."""
    made = run(world.engine, "prepare", {"task.controls": "[noise]"})["prepare"]
    more = [artifact.meta["identity"]["more"] for artifact in (made, world.split)]
    assert more[0]["data"] == more[1]["data"] and more[0]["controls"] == "" != more[1]["controls"]
    with pytest.raises(ConfigError, match="are among those the checkpoint or detector was made from"):
        world.run("extract", {"task.controls": "[noise]", "task.seed": "1"}, train=world.checkpoint)


def test_controls_reach_the_features(world):
    table = world.features.rows
    assert table["part"].iloc[-1] == "control"
    split = world.split.rows[world.split.rows["part"] == "control"]
    assert table.loc[table["part"] == "control", "id"].tolist() == split["id"].tolist()
    rows = torch.from_numpy(split.index.to_numpy(copy=True))
    images = world.split.images(rows)
    clean = world.split.inputs(world.split.column("source", rows)).float() / 16
    noisy = torch.tensor((split["control"] == "noise").to_numpy())
    assert 0.02 < float((images - clean)[noisy].abs().mean()) < 0.1
    assert not torch.equal(images[~noisy], clean[~noisy])
