import pytest
import torch

from mad.tasks._splits import mixture, stratified_order

LABELS = torch.cat([torch.zeros(500), torch.ones(300), torch.full((200,), 2)]).long()
NUMBERS = torch.arange(1000) * 7


def test_every_stretch_of_a_stratified_order_holds_the_classes_in_proportion():
    order = stratified_order(1, NUMBERS, LABELS)
    assert torch.equal(order.sort().values, torch.arange(1000))
    for start, stop in ((0, 100), (100, 250), (613, 700), (0, 999)):
        counts = torch.bincount(LABELS[order[start:stop]], minlength=3)
        assert (counts - (stop - start) * torch.tensor([0.5, 0.3, 0.2])).abs().max() <= 1.01


def test_a_short_stretch_favours_no_class():
    first = torch.stack([LABELS[stratified_order(seed, NUMBERS, LABELS)[0]] for seed in range(300)])
    assert set(first.tolist()) == {0, 1, 2}
    rows = torch.stack([stratified_order(seed, NUMBERS, LABELS)[0] for seed in range(300)])
    assert len(rows.unique()) > 200


def test_the_order_of_the_rows_given_does_not_matter():
    back = torch.arange(999, -1, -1)
    order, reversed_order = (
        stratified_order(1, NUMBERS, LABELS),
        stratified_order(1, NUMBERS[back], LABELS[back]),
    )
    assert torch.equal(order, back[reversed_order])


def test_no_rows():
    assert len(stratified_order(1, NUMBERS[:0], LABELS[:0])) == 0
    assert len(mixture(NUMBERS[:0], LABELS[:0].bool(), 0.5)) == 0


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
def test_mixture_wastes_no_row_it_could_use(fraction):
    order = stratified_order(1, NUMBERS, LABELS)
    attackable = LABELS[order] != 2  # 800 of 1000
    part = mixture(order, attackable, fraction)
    assert part.source.unique().numel() == len(part)
    assert (LABELS[part.source[part.anomalous]] != 2).all()
    assert abs(len(part) - 1000 / (1 - fraction + fraction / 0.8)) <= 2
    assert abs(int(part.anomalous.sum()) - fraction * len(part)) <= 1.5
    if fraction < 1:
        share = torch.bincount(LABELS[part.source[~part.anomalous]], minlength=3) / (~part.anomalous).sum()
        assert (share - torch.tensor([0.5, 0.3, 0.2])).abs().max() < 0.02


def test_mixture_without_attackable_rows():
    none = torch.zeros(1000, dtype=torch.bool)
    assert len(mixture(NUMBERS, none, 0.0)) == 1000 and len(mixture(NUMBERS, none, 0.5)) == 0
