import pytest
import torch

from mad.errors import ConfigError
from mad.tasks._augment import Augmentation, augment, channel_statistics, crop, rotate

EVERYTHING = Augmentation(crop_padding=2, rotation_degrees=20.0, flip_probability=0.5)


def images(n=6, height=9, width=7):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_off_by_default():
    inputs = images()
    assert torch.equal(augment(Augmentation(), inputs, torch.arange(6), 1, 0), inputs)


def test_a_row_does_not_depend_on_its_batch():
    inputs, rows = images(7), torch.tensor([3, 99, 0, 12345, 7, 8, 1])
    whole = augment(EVERYTHING, inputs, rows, 1, 2)
    singly = torch.cat([augment(EVERYTHING, inputs[i : i + 1], rows[i : i + 1], 1, 2) for i in range(7)])
    assert torch.equal(whole, singly)
    assert torch.equal(whole[[5, 2]], augment(EVERYTHING, inputs[[5, 2]], rows[[5, 2]], 1, 2))


def test_epochs_rows_and_seeds_draw_anew_and_results_stay_in_range():
    inputs = images(1).expand(6, -1, -1, -1)
    rows = torch.arange(6)
    results = [augment(EVERYTHING, inputs, rows, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert not torch.equal(results[0][0], results[0][1])
    assert all(r.min() >= 0 and r.max() <= 1 and r.shape == inputs.shape for r in results)
    assert torch.equal(results[0], augment(EVERYTHING, inputs, rows, 1, 0))


def test_crop_covers_every_offset_on_both_sides():
    """The old code cropped to one side only."""
    n, padding = 2000, 2
    point = torch.zeros(n, 1, 9, 9)
    point[:, 0, 4, 4] = 1
    moved = augment(Augmentation(crop_padding=padding), point, torch.arange(n), 1, 0)
    places = moved[:, 0].flatten(1).argmax(1)
    counts = torch.stack(
        [((places // 9 == 4 + dy) & (places % 9 == 4 + dx)).sum() for dy in range(-2, 3) for dx in range(-2, 3)]
    )
    assert counts.sum() == n and counts.min() > 40  # 80 expected at each of the 25 places


def test_crop_cuts_the_window_asked_for():
    inputs = images(2)
    result = crop(inputs, 2, torch.tensor([[2, 2], [0, 3]]))
    assert torch.equal(result[0], inputs[0]), "an offset equal to the padding gives the image back"
    expected = torch.zeros_like(inputs[1])
    expected[:, 2:, :-1] = inputs[1, :, :-2, 1:]
    assert torch.equal(result[1], expected)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2])
@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_agree_with_rot90(turns, size):
    """Guards the (x, y) order of sampling grids: the old code had it swapped and transposed every image."""
    inputs = images(3, size, size)
    result = rotate(inputs, torch.full((3,), 90.0 * turns))
    torch.testing.assert_close(result, torch.rot90(inputs, turns, dims=(2, 3)), atol=1e-5, rtol=0)


def test_turning_an_oblong_image_does_not_shear_it():
    inputs = images(1, 9, 7)
    torch.testing.assert_close(rotate(inputs, torch.tensor([180.0])), inputs.flip(2, 3), atol=1e-5, rtol=0)
    turned = rotate(inputs, torch.tensor([90.0]))
    # The middle 7x7 square turns as it would alone.
    torch.testing.assert_close(turned[:, :, 1:8], torch.rot90(inputs[:, :, 1:8], 1, dims=(2, 3)), atol=1e-5, rtol=0)


def test_rotation_goes_both_ways_up_to_the_limit():
    point = torch.zeros(400, 1, 41, 41)
    point[:, 0, 20, 40] = 1
    turned = augment(Augmentation(rotation_degrees=30.0), point, torch.arange(400), 1, 0)
    y = torch.arange(41.0) - 20
    mass = turned.sum((1, 2, 3))
    heights = (turned[:, 0].sum(2) * y).sum(1) / mass
    angles = torch.rad2deg(torch.asin((-heights / 20).clamp(-1, 1)))
    assert -31 < angles.min() < -25 and 25 < angles.max() < 31 and abs(angles.mean()) < 3


def test_flips_are_whole_mirrored_images_at_the_rate_asked_for():
    inputs = images(1).expand(1000, -1, -1, -1)
    result = augment(Augmentation(flip_probability=0.3), inputs, torch.arange(1000), 1, 0)
    flipped = (result == inputs.flip(-1)).flatten(1).all(1)
    same = (result == inputs).flatten(1).all(1)
    assert (flipped ^ same).all() and 250 < int(flipped.sum()) < 350
    always = augment(Augmentation(flip_probability=1.0), inputs, torch.arange(1000), 1, 0)
    assert torch.equal(always, inputs.flip(-1))


@pytest.mark.parametrize(
    "options",
    [
        {"crop_padding": -1},
        {"rotation_degrees": -1.0},
        {"rotation_degrees": 181.0},
        {"flip_probability": 1.1},
        {"flip_probability": float("nan")},
    ],
)
def test_options_out_of_range(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Augmentation(**options)


def test_channel_statistics_are_those_of_the_scaled_images():
    inputs = torch.randint(0, 17, (50, 3, 8, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    inputs[:, 2] = 16
    mean, std = channel_statistics(inputs, 16.0)
    scaled = inputs.double() / 16
    torch.testing.assert_close(mean, scaled.mean((0, 2, 3)).float())
    torch.testing.assert_close(std[:2], scaled.std((0, 2, 3), correction=0).float()[:2])
    assert std[2] == 1, "a constant channel may be divided by its standard deviation"
