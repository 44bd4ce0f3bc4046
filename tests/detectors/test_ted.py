"""Rank trajectories against a plain twin, and inputs that leave their own kind on the way."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mad.config import parse
from mad.detectors._base import Batch, Population
from mad.detectors.ted import Config, Detector
from mad.errors import ConfigError, FitError
from mad.stats.roc import auroc
from tests.benchmarks.plain import ted as plain
from tests.detectors.worlds import cut, take

LAYERS = ("a", "b", "c")
HALF = torch.arange(80) >= 40


def rows(n: int, seed: int, positions: int = 0, strays: int = 0) -> Batch:
    """Four classes in three layers of growing separation; the last ``strays`` rows change class after layer a."""
    centres, draws = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    classes = torch.randint(4, (n,), generator=draws)
    later = torch.where(torch.arange(n) >= n - strays, (classes + 1) % 4, classes)
    features = {}
    for name, spread, own in (("a", 3.0, classes), ("b", 3.0, later), ("c", 2.0, later)):
        middle = spread * torch.randn(4, 6, generator=centres)[own]
        shape = (n, positions, 6) if positions else (n, 6)
        features[name] = (middle[:, None] if positions else middle) + torch.randn(shape, generator=draws)
    return Batch(features, torch.eye(4)[later])


def fitted(given: Batch | list[Batch], seed: int = 0, **options) -> Detector:
    detector = Detector(parse(Config, options))
    detector.fit({"trusted": Population([given] if isinstance(given, Batch) else given)}, seed)
    return detector


def score(detector: Detector, given: Batch) -> torch.Tensor:
    return detector.score(given)["trajectory"]


@pytest.mark.parametrize("variant", ["class", "neighbors"])
def test_scores_are_those_of_the_plain_twin(variant):
    trusted, test = rows(90, 1), rows(30, 2)
    references, layers = list(trusted.features.values()), list(test.features.values())
    own, others = trusted.logits.argmax(dim=1), test.logits.argmax(dim=1)
    k = 3 if variant == "neighbors" else None
    wanted = plain.score(plain.fit(references, k, own), layers, references, k, others, own)
    found = score(fitted(trusted, variant=variant, n_neighbors=3, normalize_ranks=False), test)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("outlier", ["mahalanobis", "pca"])
@pytest.mark.parametrize("variant", ["class", "neighbors"])
def test_rows_that_change_sides_are_found(variant, outlier):
    detector = fitted(rows(400, 1), variant=variant, outlier=outlier)
    assert auroc(score(detector, rows(80, 2, strays=40)), HALF) > 0.95


def test_trusted_rows_leave_themselves_out():
    # Two far points of one class, the rest of another: with itself, each would have rank 0.
    h = torch.cat([torch.zeros(30, 1) + torch.arange(30)[:, None] / 100, torch.tensor([[50.0], [-50.0]])])
    detector = fitted(Batch({"x": h}, torch.eye(2)[[0] * 30 + [1] * 2]))
    assert float(detector.state["trajectory/mean"]) == pytest.approx(2 * math.log(31) / 32)


def test_one_layer_is_enough():
    trusted, test = rows(200, 1), rows(80, 2, strays=40)
    one = lambda b, name: Batch({name: b.features[name]}, b.logits)  # noqa: E731
    assert auroc(score(fitted(one(trusted, "a")), one(test, "a")), HALF) > 0.9
    assert score(fitted(one(trusted, "a"), variant="neighbors"), one(test, "a")).count_nonzero() == 0


def test_perfectly_separated_classes_are_no_error():
    turned = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))

    def apart(b):
        return replace(b, features={k: h + 1e4 * b.logits @ turned for k, h in b.features.items()})

    detector = fitted(apart(rows(100, 1)))
    assert score(detector, apart(rows(50, 2))).count_nonzero() == 0
    moved = apart(rows(50, 2))
    assert (score(detector, replace(moved, logits=moved.logits.roll(1, dims=1))) > 100).all()


def test_the_reference_layer_can_be_chosen():
    trusted, test = rows(100, 1), rows(40, 2)
    turned = lambda b: Batch({k: b.features[k] for k in ("c", "a", "b")}, b.logits)  # noqa: E731
    chosen = score(fitted(trusted, variant="neighbors", reference_layer="c"), test)
    torch.testing.assert_close(chosen, score(fitted(turned(trusted), variant="neighbors"), test), rtol=1e-9, atol=0)
    assert not torch.allclose(chosen, score(fitted(trusted, variant="neighbors"), test))
    with pytest.raises(FitError, match="reference_layer 'd' is none of the layers a, b, c"):
        fitted(trusted, variant="neighbors", reference_layer="d")


def test_positions_are_points_and_are_joined():
    trusted, test = rows(60, 1, positions=3), rows(20, 2, positions=3)
    mean, largest = (score(fitted(trusted, score_aggregation=how), test) for how in ("mean", "max"))
    detector = fitted(trusted)
    each = torch.stack(
        [score(detector, replace(test, features={k: h[:, t] for k, h in test.features.items()})) for t in range(3)]
    )
    torch.testing.assert_close(mean, each.mean(dim=0), rtol=1e-9, atol=0)
    torch.testing.assert_close(largest, each.amax(dim=0), rtol=1e-9, atol=0)


def test_other_positions_of_a_row_are_no_neighbours():
    # Each row's positions are copies: were they compared, every trusted rank would be 0.
    trusted = rows(80, 1)
    thrice = replace(trusted, features={k: h[:, None].expand(-1, 3, -1) for k, h in trusted.features.items()})
    torch.testing.assert_close(
        fitted(thrice, normalize_ranks=True).state["trajectory/mean"],
        fitted(trusted, normalize_ranks=True).state["trajectory/mean"],
        rtol=0.2,
        atol=0,
    )


def test_long_rows_are_cut_at_either_end():
    trusted, test = rows(60, 1, positions=5), rows(20, 2, positions=5)
    mask = torch.arange(5) < torch.randint(1, 6, (20, 1), generator=torch.Generator().manual_seed(0))
    for at in ("start", "end"):
        found = score(fitted(trusted, max_seq_len=2, truncate_seq_at=at), replace(test, mask=mask))
        shown = score(
            fitted(replace(trusted, mask=(torch.arange(5) < 2 if at == "end" else torch.arange(5) > 2).expand(60, 5))),
            replace(test, mask=_two(mask, at)),
        )
        assert torch.equal(found, shown)


def _two(mask, at):
    kept = torch.zeros_like(mask)
    for row, real in enumerate(mask):
        places = real.nonzero()[:, 0]
        kept[row, places[:2] if at == "end" else places[-2:]] = True
    return kept


def test_a_subset_of_the_reference_hangs_on_seed_and_values_alone():
    trusted, test = rows(300, 1), rows(40, 2)
    mixed = take(trusted, torch.randperm(300, generator=torch.Generator().manual_seed(0)))
    first = fitted(trusted, max_reference=100)
    assert first.state["a/reference"].shape == (100, 6)
    assert torch.equal(score(first, test), score(fitted(cut(mixed, 7), max_reference=100), test))
    assert not torch.equal(score(first, test), score(fitted(trusted, seed=1, max_reference=100), test))


def test_contaminated_trusted_rows_are_left_out_of_the_spread():
    trusted, test = rows(200, 1, strays=20), rows(80, 2, strays=40)
    plainly, trimmed = (fitted(trusted, contamination=c) for c in (0.0, 0.1))
    spread = [float(d.state["trajectory/mean"].sum()) for d in (plainly, trimmed)]
    assert spread[1] < spread[0]
    gap = [score(d, test)[40:].median() / score(d, test)[:40].median() for d in (plainly, trimmed)]
    assert gap[1] > gap[0]


@pytest.mark.parametrize("variant", ["class", "neighbors"])
def test_a_fit_with_nothing_to_follow_says_so(variant):
    trusted, test = rows(60, 1), rows(20, 2)
    assert fitted(trusted, variant=variant).state["trajectory/signal"] == 1
    if variant == "class":
        one = [replace(given, logits=torch.eye(4)[:1].expand(len(given), -1)) for given in (trusted, test)]
    else:
        one = [replace(given, features={"a": given.features["a"]}) for given in (trusted, test)]
    detector = fitted(one[0], variant=variant)
    assert detector.state["trajectory/signal"] == 0 and not score(detector, one[1]).any()


def test_ranks_can_be_normalised():
    trusted, test = rows(200, 1), rows(80, 2, strays=40)
    detector = fitted(trusted, normalize_ranks=True)
    assert 0 < float(detector.state["trajectory/mean"].max()) < math.log(2)
    assert auroc(score(detector, test), HALF) > 0.95


def test_ties_do_not_hang_on_the_order_of_rows():
    trusted, test = rows(60, 1), rows(20, 2)
    doubled = Batch({k: torch.cat([h, h]).round() for k, h in trusted.features.items()}, trusted.logits.repeat(2, 1))
    mixed = take(doubled, torch.randperm(120, generator=torch.Generator().manual_seed(0)))
    for variant in ("class", "neighbors"):
        first, again = (score(fitted(given, variant=variant), test) for given in (doubled, mixed))
        torch.testing.assert_close(first, again, rtol=1e-9, atol=1e-12)


def test_a_far_input_scores_finite():
    trusted, test = rows(60, 1), rows(20, 2)
    for h in test.features.values():
        h[3] *= 1e37
    for variant in ("class", "neighbors"):
        assert torch.isfinite(score(fitted(trusted, variant=variant), test)).all()


def test_unusable_rows_are_told():
    trusted, test = rows(30, 1), rows(5, 2)
    with pytest.raises(FitError, match="carry no logits"):
        fitted(replace(trusted, logits=None))
    with pytest.raises(FitError, match="carry no logits"):
        fitted(trusted).score(replace(test, logits=None))
    assert fitted(replace(trusted, logits=None), variant="neighbors").needs == {"features"}
    with pytest.raises(FitError, match="29 trusted points of other rows, at least 30 needed"):
        fitted(trusted, variant="neighbors", n_neighbors=30)
    with pytest.raises(FitError, match="layer 'b' was fitted, but these rows do not have it"):
        fitted(trusted).score(Batch({"a": test.features["a"]}, test.logits))
    uneven = replace(trusted, features={**trusted.features, "b": trusted.features["b"][:, None].expand(-1, 2, -1)})
    with pytest.raises(FitError, match="'a' and 'b' do not have the same positions"):
        fitted(uneven)


def test_ranges():
    for wrong, message in (
        ({"n_neighbors": 0}, "n_neighbors must be at least 1"),
        ({"explained_variance": 0.0}, "explained_variance must be above 0"),
        ({"contamination": 0.5}, "contamination must be at least 0 and below 0.5"),
        ({"max_seq_len": 0}, "max_seq_len must be at least 1"),
        ({"max_reference": 1}, "max_reference must be at least 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            Config(**wrong)
