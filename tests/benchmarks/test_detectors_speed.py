"""Detectors against their plain twins, on features of 8,000 trusted and 2,000 test rows, with one thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from mad import registry
from mad.detectors._base import Batch, Population
from mad.runtime.local import one_thread
from tests.benchmarks.figures import Figure, best_of, record, watched
from tests.benchmarks.plain import beatrix, mahalanobis, que, ted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TRUSTED, TEST = 8_000, 2_000
WIDTHS = {"first": 128, "second": 128, "logits": 10}
CLASSES = 10
REFERENCE, NEIGHBOURS = 2_000, 10
GIB = 2**30
ROOT = Path(__file__).parents[2]


def batch(n: int, seed: int, widths: dict[str, int] | None = None) -> Batch:
    """Rows of ten classes, each layer a random layer of rectifiers on the one before; the last is linear."""
    widths = widths or WIDTHS
    world, draws = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    classes = torch.randint(CLASSES, (n,), generator=draws)
    h = torch.randn(CLASSES, 64, generator=world)[classes] + 0.7 * torch.randn(n, 64, generator=draws)
    features = {}
    for name, width in widths.items():
        h = h @ torch.randn(h.shape[1], width, generator=world) / h.shape[1] ** 0.5
        h = h if name == "logits" else h.relu()
        features[name] = h + 0.05 * torch.randn(h.shape, generator=draws)
    return Batch(features, torch.nn.functional.one_hot(classes, CLASSES).float())


def part(rows: Batch, kept: slice) -> Batch:
    return Batch({k: h[kept] for k, h in rows.features.items()}, rows.logits[kept])


@pytest.fixture(scope="module")
def rows() -> dict[str, Batch]:
    found = {"trusted": batch(TRUSTED, 1), "untrusted": batch(TRUSTED, 2), "test": batch(TEST, 3)}
    # A direction that only a tenth of the untrusted rows take, so that quantum entropy has a signal.
    for h in found["untrusted"].features.values():
        h[: TRUSTED // 10, 0] += 2.0
    return found


def fit_and_score(name: str, given: dict[str, Batch], **options) -> dict[str, torch.Tensor]:
    module = registry.load("detectors", name)
    detector = module.Detector(module.Config(**options))
    parts = {k: Population([given[k]], k) for k in ("trusted", "untrusted")}
    detector.fit({k: parts[k] for k in module.Detector.fits_on}, seed=0)
    return detector.score(given["test"])


def compare(what, ours, plain, target, rounds=(3, 1), agree=1e-5):
    """Time both, record the ratio, and hold it to the target; they must find the same scores."""
    with one_thread(), watched() as load:
        scores = ours()
        plain_scores = {}
        (plain_seconds,) = best_of(rounds[1], lambda: plain_scores.update(plain()))
        (seconds,) = best_of(rounds[0], ours)
    for layer, wanted in plain_scores.items() if agree else ():
        torch.testing.assert_close(scores[layer], wanted, rtol=agree, atol=agree * float(wanted.abs().max()))
    ratio = plain_seconds / seconds
    details = f"fit and score: {seconds:.2f} against {plain_seconds:.2f} s"
    record(Figure(f"detector, {what}", f"{ratio:.1f} x", f"{target} x", load.others, details))
    assert ratio >= target


def classes_of(given: Batch) -> torch.Tensor:
    return given.logits.argmax(dim=1)


def test_beatrix(rows):
    def plain():
        found = {}
        for layer, h in rows["trusted"].features.items():
            fitted = beatrix.fit(h, classes_of(rows["trusted"]))
            found[layer] = beatrix.score(fitted, rows["test"].features[layer], classes_of(rows["test"]))
        return found

    # Averages of batch medians are other numbers; tests/detectors/test_beatrix.py compares exact ones.
    compare("beatrix", lambda: fit_and_score("beatrix", rows), plain, 5, agree=None)


@pytest.mark.parametrize("variant", ["neighbors", "class"])
def test_ted(rows, variant):
    given = {**rows, "trusted": part(rows["trusted"], slice(REFERENCE))}
    references, layers = list(given["trusted"].features.values()), list(given["test"].features.values())

    def plain():
        k = NEIGHBOURS if variant == "neighbors" else None
        own, others = classes_of(given["trusted"]), classes_of(given["test"])
        return {"trajectory": ted.score(ted.fit(references, k, own), layers, references, k, others, own)}

    target = 50 if variant == "neighbors" else 5
    options = {"variant": variant, "n_neighbors": NEIGHBOURS, "normalize_ranks": False}
    compare(f"ted, {variant}", lambda: fit_and_score("ted", given, **options), plain, target, rounds=(7, 1))


def test_mahalanobis(rows):
    """Both sides spend their time in the same float64 products: about 4 would be the most at this width."""

    def plain():
        trusted, test = rows["trusted"].features, rows["test"].features
        return {layer: mahalanobis.score(mahalanobis.fit(h), test[layer]) for layer, h in trusted.items()}

    compare("mahalanobis", lambda: fit_and_score("mahalanobis", rows), plain, 2, rounds=(10, 5))


def test_que(rows):
    def plain():
        trusted, untrusted, test = (rows[k].features for k in ("trusted", "untrusted", "test"))
        return {layer: que.score(que.fit(h, untrusted[layer]), test[layer]) for layer, h in trusted.items()}

    compare("que", lambda: fit_and_score("que", rows), plain, 2, rounds=(10, 5))


def test_knn(rows):
    """Against scikit-learn's brute force, itself a blocked matrix product with one thread here."""

    def sklearn():
        found = {}
        for layer, h in rows["trusted"].features.items():
            search = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(h.numpy())
            distances, _ = search.kneighbors(rows["test"].features[layer].numpy())
            found[layer] = torch.from_numpy(distances[:, -1]).double()
        return found

    compare("knn against scikit-learn", lambda: fit_and_score("knn", rows, k=NEIGHBOURS), sklearn, 0.67, (5, 5))


PEAK = """
import resource, sys
from tests.benchmarks import test_detectors_speed as bench
name, n, *widths = sys.argv[1:]
import torch
torch.set_num_threads(1)
given = {"trusted": bench.batch(int(n), 1, {f"layer {i}": int(w) for i, w in enumerate(widths)})}
given["untrusted"] = given["trusted"]
given["test"] = bench.part(given["trusted"], slice(500))
bench.fit_and_score(name, given)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.parametrize(("name", "n", "widths"), [("beatrix", 8_000, [4096]), ("ted", 50_000, [128, 128, 10])])
def test_memory(name, n, widths):
    """Peak resident memory of a process that makes the rows, fits and scores, libraries included."""
    command = [sys.executable, "-c", PEAK, name, str(n), *map(str, widths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    most = int(done.stdout.splitlines()[-1]) / GIB
    shape = f"{n:,} trusted rows, width {' '.join(map(str, widths))}"
    record(Figure(f"memory, {name}", f"{most:.2f} GiB", "4 GiB", None, shape))
    assert most < 4
