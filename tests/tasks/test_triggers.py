import importlib
import math

import pytest
import torch

from mad import registry
from mad.errors import ConfigError
from mad.tasks.triggers import blended, corner, noise, patch, sig

SHAPE = (3, 6, 9)
NAMES = registry.names("triggers")


def images(n=5, shape=SHAPE):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def run(module, config, inputs, rows=None, seed=3):
    rows = torch.arange(len(inputs)) if rows is None else rows
    return module.apply(config, module.state(config, tuple(inputs.shape[1:]), seed), inputs, rows, seed)


@pytest.mark.parametrize("name", NAMES)
def test_contract_shape_range_purity_and_repeatability(name):
    module = registry.load("triggers", name)
    inputs = images()
    before = inputs.clone()
    result = run(module, module.Config(), inputs)
    assert result.shape == inputs.shape and result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 1
    assert torch.equal(inputs, before), "the clean images are left alone"
    assert torch.equal(result, run(module, module.Config(), inputs))
    assert not torch.equal(result, inputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_a_row_does_not_depend_on_its_batch(name, shape):
    module = registry.load("triggers", name)
    inputs, rows = images(7, shape), torch.tensor([40, 2, 9, 11, 70000, 5, 6])
    whole = run(module, module.Config(), inputs, rows)
    singly = torch.cat([run(module, module.Config(), inputs[i : i + 1], rows[i : i + 1]) for i in range(7)])
    assert torch.equal(whole, singly)
    assert torch.equal(whole.flip(0), run(module, module.Config(), inputs.flip(0), rows.flip(0)))


@pytest.mark.parametrize("name", NAMES)
def test_no_images_give_no_images(name):
    module = registry.load("triggers", name)
    assert run(module, module.Config(), images(0)).shape == (0, *SHAPE)


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [("top_left", 0, 0), ("top_right", 0, 8), ("bottom_left", 5, 0), ("bottom_right", 5, 8)],
)
def test_corners_are_where_their_names_say_and_white_in_every_channel(name, row, column):
    """The old code had top right and bottom left swapped, which square images hide."""
    black = torch.zeros(1, *SHAPE)
    result = run(corner, corner.Config(corner=name), black)
    expected = black.clone()
    expected[0, :, row, column] = 1
    assert torch.equal(result, expected)


def test_corner_size_and_value():
    result = run(corner, corner.Config(corner="bottom_right", size=2, value=0.25), torch.ones(1, *SHAPE))
    assert (result[0, :, 4:, 7:] == 0.25).all() and int((result != 1).sum()) == 3 * 4


@pytest.mark.parametrize(
    ("position", "top", "left"),
    [
        ("top_left", 0, 0),
        ("top_right", 0, 6),
        ("bottom_left", 3, 0),
        ("bottom_right", 3, 6),
        ("center", 1, 3),
    ],
)
def test_patch_is_a_checkerboard_at_its_place(position, top, left):
    grey = torch.full((2, *SHAPE), 0.5)
    result = run(patch, patch.Config(position=position), grey)
    board = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert torch.equal(result[:, :, top : top + 3, left : left + 3], board.expand(2, 3, 3, 3))
    assert int((result != 0.5).sum()) == 2 * 3 * 9


def test_random_patch_is_fixed_by_the_seed():
    config = patch.Config(pattern="random")
    patterns = [patch.state(config, SHAPE, seed)["pattern"] for seed in (1, 1, 2)]
    assert torch.equal(patterns[0], patterns[1]) and not torch.equal(patterns[0], patterns[2])


def test_blended_mixes_one_seeded_image_into_all():
    state = blended.state(blended.Config(), SHAPE, 1)
    inputs = images()
    result = blended.apply(blended.Config(alpha=0.2), state, inputs, torch.arange(5), 1)
    torch.testing.assert_close(result, 0.8 * inputs + 0.2 * state["pattern"])
    assert not torch.equal(state["pattern"], blended.state(blended.Config(), SHAPE, 2)["pattern"])
    replaced = blended.apply(blended.Config(alpha=1.0), state, inputs, torch.arange(5), 1)
    assert torch.equal(replaced, state["pattern"].expand(5, *SHAPE))


def test_sig_is_a_sine_along_the_columns_and_the_same_in_every_row_and_channel():
    """Equation 1 of 1902.11237: v(i, j) = delta sin(2 pi j f / m) in column j = 1..m."""
    grey = torch.full((2, *SHAPE), 0.5)
    result = run(sig, sig.Config(delta=0.1, frequency=2.0), grey)
    for j in range(1, 10):
        expected = 0.5 + 0.1 * math.sin(2 * math.pi * j * 2 / 9)
        torch.testing.assert_close(result[..., j - 1], torch.full((2, 3, 6), expected))
    assert sig.Config() == sig.Config(delta=40 / 255, frequency=6)
    wide = sig.state(sig.Config(), (1, 4, 96), 0)["pattern"]
    spectrum = torch.fft.rfft(wide[0, 0].double()).abs()
    assert spectrum.argmax() == 6 and spectrum[6] == pytest.approx(40 / 255 * 96 / 2, rel=1e-6)


def test_sig_is_clipped_and_the_same_for_any_seed():
    assert run(sig, sig.Config(delta=1.0), torch.ones(1, *SHAPE)).max() == 1
    patterns = [sig.state(sig.Config(), SHAPE, seed)["pattern"] for seed in (1, 2)]
    assert torch.equal(*patterns)


@pytest.mark.parametrize("frequency", [3.0, 6.0, 12.0])
def test_sig_with_a_wave_that_is_zero_in_every_column(frequency):
    with pytest.raises(ConfigError, match=f"frequency {frequency:g} gives no stripes on images 6 pixels wide"):
        sig.state(sig.Config(frequency=frequency), (1, 9, 6), 0)


def test_noise_is_drawn_once_per_row_not_at_each_access():
    """The old code drew new noise whenever an image was read."""
    grey = torch.full((2, 3, 64, 64), 0.5)
    first, second = run(noise, noise.Config(std=0.05), grey), run(noise, noise.Config(std=0.05), grey)
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1]), "each image has noise of its own"
    added = first - grey
    assert abs(added.mean()) < 0.002 and abs(added.std() - 0.05) < 0.002
    assert not torch.equal(first, run(noise, noise.Config(std=0.05), grey, seed=4))


def test_noise_is_clipped():
    result = run(noise, noise.Config(std=5.0, low=0.1, high=0.8), images())
    assert result.min() == torch.tensor(0.1) and result.max() == torch.tensor(0.8)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("corner", {"size": 0}),
        ("corner", {"value": 1.5}),
        ("corner", {"value": float("nan")}),
        ("patch", {"size": 0}),
        ("blended", {"alpha": 0.0}),
        ("blended", {"alpha": 1.1}),
        ("noise", {"std": 0.0}),
        ("noise", {"low": 0.5, "high": 0.5}),
        ("noise", {"low": -0.1}),
        ("noise", {"high": 1.1}),
        ("sig", {"delta": 0.0}),
        ("sig", {"delta": 1.1}),
        ("sig", {"frequency": 0.0}),
        ("wanet", {"grid_size": 1}),
        ("wanet", {"strength": 0.0}),
        ("wanet", {"grid_rescale": 0.0}),
        ("wanet", {"noise_ratio": -1.0}),
    ],
)
def test_options_out_of_range(name, options):
    module = importlib.import_module(f"mad.tasks.triggers.{name}")
    with pytest.raises(ConfigError, match=next(iter(options))):
        module.Config(**options)


@pytest.mark.parametrize("module", [corner, patch])
def test_a_pattern_larger_than_the_image(module):
    with pytest.raises(ConfigError, match="size 7 is larger than the 6x9 images"):
        module.state(module.Config(size=7), SHAPE, 0)
