import pytest
import torch

from mad.errors import ConfigError, DataError
from mad.models.pooling import check_how, kept_positions, pool

# Two rows of three and two real positions; 9 stands at padding.
LEFT = torch.tensor(
    [[[9.0, 9.0], [1.0, -1.0], [2.0, -2.0], [6.0, -6.0]], [[9.0, 9.0], [9.0, 9.0], [3.0, 0.0], [5.0, 4.0]]]
)
LEFT_MASK = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]])
RIGHT = torch.tensor(
    [[[1.0, -1.0], [2.0, -2.0], [6.0, -6.0], [9.0, 9.0]], [[3.0, 0.0], [5.0, 4.0], [9.0, 9.0], [9.0, 9.0]]]
)
RIGHT_MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
EXPECTED = {
    "last": [[6.0, -6.0], [5.0, 4.0]],
    "mean": [[3.0, -3.0], [4.0, 2.0]],
    "max": [[6.0, -1.0], [5.0, 4.0]],
    "0:2": [[[1.0, -1.0], [2.0, -2.0]], [[3.0, 0.0], [5.0, 4.0]]],
    "-2:": [[[2.0, -2.0], [6.0, -6.0]], [[3.0, 0.0], [5.0, 4.0]]],
    "-1:": [[[6.0, -6.0]], [[5.0, 4.0]]],
    ":1": [[[1.0, -1.0]], [[3.0, 0.0]]],
}


@pytest.mark.parametrize("how", EXPECTED)
@pytest.mark.parametrize(("h", "mask"), [(LEFT, LEFT_MASK), (RIGHT, RIGHT_MASK)], ids=["left", "right"])
def test_b1_14_padding_on_either_side_does_not_enter(h, mask, how):
    assert torch.equal(pool(h, mask, how), torch.tensor(EXPECTED[how]))
    assert torch.equal(pool(h, mask.bool(), how), torch.tensor(EXPECTED[how]))


@pytest.mark.parametrize("how", EXPECTED)
def test_not_even_nan_at_padding_enters(how):
    h = LEFT.masked_fill(LEFT_MASK[..., None] == 0, torch.nan)
    assert torch.equal(pool(h, LEFT_MASK, how), torch.tensor(EXPECTED[how]))


def test_without_a_mask_every_position_is_real():
    h = torch.arange(12.0).reshape(2, 3, 2)
    assert torch.equal(pool(h, None, "last"), h[:, -1])
    torch.testing.assert_close(pool(h, None, "mean"), h.mean(1))
    assert torch.equal(pool(h, None, "1:"), h[:, 1:])
    assert torch.equal(pool(h, None, "flatten"), h.reshape(2, 6))


def test_a_hole_in_the_mask_is_skipped():
    h = torch.arange(4.0).reshape(1, 4, 1)
    mask = torch.tensor([[1, 0, 1, 0]])
    assert pool(h, mask, "last").item() == 2
    assert pool(h, mask, "0:2").flatten().tolist() == [0, 2]


def test_all_keeps_positions_as_they_are():
    assert pool(LEFT, LEFT_MASK, "all") is LEFT


@pytest.mark.parametrize("how", ["last", "mean", "max", "all", "flatten", "0:4"])
def test_vectors_pass_through(how):
    h = torch.rand(3, 5)
    assert pool(h, torch.ones(3, 7), how, channel_axis=1) is h


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("how", ["last", "mean", "max", "0:2"])
def test_the_dtype_is_kept(how, dtype):
    assert pool(LEFT.to(dtype), LEFT_MASK, how).dtype == dtype


def test_b1_15_a_half_precision_mean_does_not_overflow():
    h = torch.full((1, 100, 2), 60000.0, dtype=torch.float16)
    assert torch.equal(pool(h, None, "mean"), h[:, 0])
    maps = torch.full((1, 2, 10, 10), 60000.0, dtype=torch.float16)
    assert torch.equal(pool(maps, None, "mean", 1), maps[:, :, 0, 0])


@pytest.mark.parametrize(("axis", "order"), [(1, (0, 1, 2, 3)), (3, (0, 2, 3, 1)), (-1, (0, 2, 3, 1))])
def test_b1_14_channels_of_a_map_are_its_features(axis, order):
    nchw = torch.randn(2, 5, 3, 4)
    h = nchw.permute(order)
    torch.testing.assert_close(pool(h, None, "mean", axis), nchw.mean((2, 3)))
    assert torch.equal(pool(h, None, "max", axis), nchw.amax((2, 3)))
    assert torch.equal(pool(h, None, "flatten", axis), nchw.reshape(2, 60))
    pixels = pool(h, None, "all", axis)
    assert pixels.shape == (2, 12, 5)
    assert torch.equal(pixels[1, 7], nchw[1, :, 1, 3])


def test_b1_25_pooled_features_do_not_keep_the_batch_alive():
    h = torch.rand(4, 50, 8)
    for how in ("last", "mean", "max", "0:2"):
        pooled = pool(h, None, how)
        assert pooled.untyped_storage().nbytes() == pooled.numel() * pooled.element_size()


@pytest.mark.parametrize(
    ("h", "mask", "how", "axis", "error", "message"),
    [
        (LEFT, None, "median", None, ConfigError, "expected last, mean.*got 'median'"),
        (LEFT, None, "0:4:2", None, ConfigError, "slice such as 0:4"),
        (LEFT, None, "3:3", None, ConfigError, "keeps no position"),
        (LEFT, None, "-1:-3", None, ConfigError, "keeps no position"),
        (LEFT, LEFT_MASK[:, :3], "last", None, DataError, "does not fit"),
        (LEFT, LEFT_MASK, "flatten", None, DataError, "has padding"),
        (LEFT, LEFT_MASK * torch.tensor([[1], [0]]), "mean", None, DataError, "row 1 has no real position"),
        (LEFT, LEFT_MASK * torch.tensor([[1], [0]]), "last", None, DataError, "row 1 has no real position"),
        (LEFT, LEFT_MASK, "0:3", None, DataError, "row 1 has 2 real positions.*keeps 2 of them, not 3"),
        (LEFT, LEFT_MASK, "-3:", None, DataError, "row 1 has 2 real positions"),
        (LEFT, LEFT_MASK, "1:", None, DataError, "row 1"),
        (LEFT, LEFT_MASK, "7:", None, DataError, "row 0"),
        (torch.rand(2, 3, 4, 4), None, "mean", None, ConfigError, "set the channel axis"),
        (torch.rand(2, 3, 4, 4), None, "mean", 0, ConfigError, "axis 0 holds rows"),
        (torch.rand(2, 3, 4, 4), None, "last", 1, ConfigError, "a map has none"),
        (torch.rand(2, 3, 4, 4), None, "0:2", 1, ConfigError, "a map has none"),
        (torch.rand(2), None, "mean", None, DataError, "expected 2, 3 or 4"),
        (torch.rand(2, 1, 1, 1, 1), None, "mean", 1, DataError, "expected 2, 3 or 4"),
    ],
)
def test_what_cannot_be_pooled_is_told_in_one_line(h, mask, how, axis, error, message):
    with pytest.raises(error, match=message) as caught:
        pool(h, mask, how, axis)
    assert "\n" not in str(caught.value)


def test_a_config_can_check_its_pooling_early():
    for how in ("last", "all", "0:4", "-4:", ":-1", "2:"):
        check_how(how)
    with pytest.raises(ConfigError):
        check_how("first")


@pytest.mark.parametrize(
    ("how", "kept"), [("all", [0, 1, 2, 3]), ("-2:", [2, 3]), ("1:3", [1, 2]), ("last", []), ("mean", [])]
)
def test_which_positions_are_kept_one_by_one(how, kept):
    assert list(kept_positions(how, 4)) == kept
    if kept:
        h = torch.arange(8.0).reshape(1, 4, 2)
        assert torch.equal(pool(h, how=how), h[:, kept])
