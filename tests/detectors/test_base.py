"""What the base gives every detector: populations, masks, errors that name the layer."""

from __future__ import annotations

import pytest
import torch

from mad.detectors._base import Batch, Population, predicted_class
from mad.detectors.knn import Config, Detector
from mad.errors import FitError
from tests.detectors.worlds import cut, world


def fit(*batches: Batch) -> Detector:
    detector = Detector(Config(k=1))
    detector.fit({"trusted": Population(list(batches))}, seed=0)
    return detector


def test_statistics_are_computed_once_and_do_not_depend_on_batches():
    given = world().trusted
    whole, parts = Population([given]), Population(cut(given, 17))
    assert len(whole) == len(parts) == 300
    assert whole.moments("first") is whole.moments("first")
    assert torch.equal(whole.moments("first").scatter, parts.moments("first").scatter)
    classes = dict(whole.class_moments("first"))
    assert list(classes) == [0, 1, 2] and sum(m.count for m in classes.values()) == 300
    for c, moments in parts.class_moments("first"):
        assert torch.equal(moments.scatter, classes[c].scatter)
    within = sum(m.scatter for m in classes.values())
    torch.testing.assert_close(whole.tied_moments("first").within.scatter, within, rtol=1e-10, atol=1e-9)


def test_a_row_is_the_mean_over_its_real_positions():
    detector = fit(Batch({"x": torch.tensor([[0.0], [0.0]])}))
    h = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [100.0], [100.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert detector.score(Batch({"x": h}, mask=mask))["x"].tolist() == [2.0, 5.0]
    assert detector.score(Batch({"x": h}))["x"].tolist() == pytest.approx([104 / 3, 205 / 3])


def test_masks_that_cannot_be_used_are_errors():
    detector, h = fit(Batch({"x": torch.zeros(2, 1)})), torch.zeros(2, 3, 1)
    with pytest.raises(FitError, match="1 rows have no real position"):
        detector.score(Batch({"x": h}, mask=torch.tensor([[True] * 3, [False] * 3])))
    with pytest.raises(FitError, match="mask"):
        detector.score(Batch({"x": h}, mask=torch.ones(2, 2).bool()))


def test_batches_that_differ_and_layers_never_fitted_are_errors():
    with pytest.raises(FitError, match="differ in their layers or widths"):
        fit(Batch({"x": torch.zeros(2, 1)}), Batch({"x": torch.zeros(2, 2)}))
    with pytest.raises(FitError, match="layer 'y' was not fitted \\(fitted: x\\)"):
        fit(Batch({"x": torch.zeros(2, 1)})).score(Batch({"y": torch.zeros(2, 1)}))
    with pytest.raises(FitError, match="pool them"):
        fit(Batch({"x": torch.zeros(2, 1, 3, 3)}))


def test_predicted_class_of_one_logit_is_its_sign():
    assert predicted_class(torch.tensor([[-1.0], [2.0]])).tolist() == [0, 1]
    assert predicted_class(torch.tensor([[-1.0, 2.0, 0.0]])).tolist() == [1]
