"""attack: only rows that it really turned are anomalous, the others are counted, and detectors are attacked too."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mad.artifacts import AttackedSplit
from mad.context import Silent
from mad.errors import ArtifactError, ConfigError, DataError
from mad.models.load import load_classifier
from mad.runtime import chain as chains
from mad.runtime.engine import Engine
from mad.runtime.identity import code_digest
from mad.runtime.upkeep import _kept
from mad.stages._attack_rows import attack_facts, attacked_rows, changed_facts
from mad.stages._detector_score import DIFFERENTIABLE, DetectorScore
from mad.stages.attack import Options, make_objective
from mad.tasks._splits import MIXED
from tests.conftest import SMALL, World, make_engine, run_chain

FLAGS = {
    "task": "adversarial",
    "task.max_rows": "600",
    "task.controls": "[noise]",
    "task.control_rows": "15",
    "train.epochs": "8",
    "attack.epsilon": "0.25",
    "attack.steps": "8",
    "attack.workers": "0",
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The adversarial task, from its rows to the report; 8 x 8 digits need a large epsilon."""
    engine = make_engine(tmp_path_factory.mktemp("attacked"))
    return World(engine, run_chain(engine, "report", FLAGS))


@pytest.fixture(scope="module")
def model(attacked):
    return load_classifier(attacked.checkpoint.folder)


def attack(world, **options) -> AttackedSplit:
    """The same rows and model under another attack."""
    flags = {name: value for name, value in FLAGS.items() if name.startswith("attack.")}
    flags |= {f"attack.{name}": str(value).lower() for name, value in options.items()}
    return world.run("attack", flags, prepare=world.split, train=world.checkpoint)["attack"]


def auroc(world, **options) -> float:
    """AUROC of the detector of the chain, as it was fitted, on rows attacked in another way."""
    flags = {f"attack.{name}": str(value).lower() for name, value in options.items()}
    return world.run("detect", flags, fit=world.artifacts["fit"])["detect"].summary["auroc"]


def anomalous(split) -> torch.Tensor:
    return torch.from_numpy(split.rows["is_anomalous"].to_numpy().nonzero()[0])


def answers(model, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images).argmax(dim=1)


def untouched(split, rows: torch.Tensor) -> torch.Tensor:
    return split.inputs(split.column("source", rows)).float() / split.summary["scale"]


def variants(split) -> torch.Tensor:
    """Adversarial examples of all rows that were attacked, the failed ones too."""
    names = sorted(name for name in split.meta["files"] if name.startswith("chunk-"))
    return torch.cat([split.tensors(name)["variants"] for name in names])


def test_the_chain_runs_through(attacked):
    made = attacked.artifacts
    assert type(made["attack"]) is AttackedSplit
    assert made["extract"].meta["inputs"]["attacked"] == made["attack"].key
    ids = made["attack"].rows.loc[made["attack"].rows["part"] != "train", "id"]
    assert made["extract"].rows["id"].tolist() == ids.tolist()
    assert made["detect"].summary["auroc"] > 0.95
    assert "trigger.png" in made["report"].summary["plots"]
    assert made["train"].summary["attack_success_rate"] is None, "no row carries a backdoor"


def test_other_programs_can_read_what_is_written(attacked):
    """JSON has no spelling for NaN, such as the success rate of a backdoor that no row carries."""
    files = [file for artifact in attacked.artifacts.values() for file in artifact.folder.glob("*.json")]
    assert {"meta.json", "history.json", "metrics.json"} <= {file.name for file in files}
    for file in files:
        json.loads(file.read_text(), parse_constant=lambda name, file=file: pytest.fail(f"{name} in {file}"))


def test_a_task_without_rows_to_attack_is_handed_on(world):
    assert world.artifacts["attack"].key == world.split.key


def test_a_backdoored_model_can_be_attacked_on_rows_it_never_saw(world):
    """Both tasks cut a data set alike, so that held-out rows of one are held-out rows of the other."""
    flags = {"task": "adversarial", "task.max_rows": "600", "attack.epsilon": "0.3", "attack.steps": "5"}
    made = world.run("extract", flags, train=world.checkpoint)
    assert made["train"].key == world.checkpoint.key and made["attack"].key.startswith("attack-")
    for part in ("calibration", "untrusted", "validation", "test"):
        assert not made["attack"].numbers(part) & world.split.numbers("train")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacked_rows_are_near_the_clean_ones_and_answered_wrong(attacked, model, norm):
    epsilon = {"linf": 0.25, "l2": 1.5}[norm]
    split = attack(attacked, norm=norm, epsilon=epsilon)
    rows = anomalous(split)
    images, clean = split.images(rows), untouched(split, rows)
    change = (images - clean).flatten(1)
    sizes = change.abs().amax(dim=1) if norm == "linf" else change.norm(dim=1)
    assert sizes.max() <= epsilon + 1e-6 and sizes.max() > 0.9 * epsilon
    assert images.min() >= 0 and images.max() <= 1
    true, label = split.column("clean_label", rows), split.column("label", rows)
    assert torch.equal(answers(model, clean), true), "rows that were wrong before are no adversarial examples"
    assert torch.equal(answers(model, images), label) and (label != true).all()
    facts = split.summary["facts"]["attack"]["all"]
    assert facts["max_perturbation"] == pytest.approx(float(sizes.max()), abs=1e-6)
    assert facts["mean_perturbation"] == pytest.approx(float(sizes.mean()), abs=1e-6)


def test_all_other_rows_are_as_they_were(attacked):
    before, after = attacked.split, attacked.artifacts["attack"]
    kept = after.rows[~after.rows["is_anomalous"]].set_index("id")
    pd.testing.assert_frame_equal(kept, before.rows.set_index("id").loc[kept.index])
    rows = torch.from_numpy((~after.rows["is_anomalous"]).to_numpy().nonzero()[0])
    places = torch.from_numpy(pd.Index(before.rows["id"]).get_indexer(pd.Index(kept.index)).astype("int64"))
    assert torch.equal(after.images(rows), before.images(places))
    assert set(after.rows["control"]) == {"", "noise"} and (kept["variant"] >= 0).sum() == 15
    for part in ("train", "trusted", "calibration", "control"):
        assert (after.rows["part"] == part).sum() == (before.rows["part"] == part).sum()


def test_the_counts_add_up(attacked, model):
    before, after = attacked.split, attacked.artifacts["attack"]
    facts = after.summary["facts"]["attack"]
    assert set(facts) == {*MIXED, "all"}
    for name in ("attempted", "already_misclassified", "failed", "succeeded", "clean_rows_dropped"):
        assert sum(facts[part][name] for part in MIXED) == facts["all"][name]
    for part in MIXED:
        mine, left = before.rows[before.rows["part"] == part], after.rows[after.rows["part"] == part]
        given = facts[part]
        assert given["attempted"] == mine["is_anomalous"].sum()
        assert given["succeeded"] == left["is_anomalous"].sum()
        assert given["attempted"] == given["already_misclassified"] + given["failed"] + given["succeeded"]
        assert given["clean_rows_dropped"] == (~mine["is_anomalous"]).sum() - (~left["is_anomalous"]).sum()
        assert given["robust_accuracy"] == given["failed"] / given["attempted"]
        assert given["accuracy_before"] == pytest.approx(1 - given["already_misclassified"] / given["attempted"])
        assert after.summary["rows"][part] == {"rows": len(left), "anomalous": int(left["is_anomalous"].sum())}
        assert after.summary["facts"]["rows"][part] == len(left)
        rows = torch.from_numpy(mine.index[mine["is_anomalous"]].to_numpy(copy=True))
        wrong = answers(model, before.images(rows)) != before.column("clean_label", rows)
        assert given["already_misclassified"] == int(wrong.sum())
    assert facts["all"]["already_misclassified"] > 0, "or the exclusion is not tested"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_share_of_anomalous_rows_stays(tmp_path, share):
    flags = {**FLAGS, "task.anomalous_fraction": str(share), "train.epochs": "4"}
    split = run_chain(make_engine(tmp_path), "attack", flags)["attack"]
    for part in MIXED:
        counts = split.summary["rows"][part]
        assert abs(counts["anomalous"] - share * counts["rows"]) <= 1


def test_chunks_change_nothing(attacked):
    whole, cut = attack(attacked, batch_size=16), attack(attacked, batch_size=16, chunk_rows=32)
    assert sum(name.startswith("chunk-") for name in cut.meta["files"]) == 4
    assert torch.equal(variants(whole), variants(cut)) and whole.rows.equals(cut.rows)
    assert torch.equal(whole.images(anomalous(whole)), cut.images(anomalous(cut)))
    assert torch.equal(cut.images(anomalous(cut).flip(0)), cut.images(anomalous(cut)).flip(0))


class Dying(Silent):
    def update(self, what, done, total, figures=None):
        if what == "chunks" and done == 2:
            raise KeyboardInterrupt


def test_a_chunk_is_the_same_whatever_was_made_before_it(attacked):
    cut = attack(attacked, chunk_rows=32)
    dying = replace(attacked.engine, force=frozenset({"attack"}), progress=Dying())
    with pytest.raises(KeyboardInterrupt):
        attack(replace(attacked, engine=dying), chunk_rows=32)
    again = attack(attacked, chunk_rows=32)
    assert again.meta["created"] > cut.meta["created"] and again.meta["files"] == cut.meta["files"]


@pytest.mark.parametrize("method", ["pgd", "fgsm"])
def test_batches_change_no_more_than_rounding(attacked, method):
    """Matrix products of other sizes round differently, which may turn the sign of a vanishing gradient."""
    one, other = (attack(attacked, method=method, max_robust_accuracy=1, batch_size=n) for n in (128, 7))
    assert (variants(one) - variants(other)).abs().lt(1e-5).double().mean() > 0.999
    assert one.rows["id"].equals(other.rows["id"])


def test_again_gives_the_same_bytes(attacked):
    first = attacked.artifacts["attack"]
    again = replace(attacked, engine=replace(attacked.engine, force=frozenset({"attack"})))
    assert attack(again).meta["files"] == first.meta["files"]


def test_the_seed_moves_the_random_starts_and_fgsm_has_none(attacked):
    plain, seeded = attack(attacked), attack(attacked, seed=1)
    assert not torch.equal(variants(plain), variants(seeded))
    still = [attack(attacked, method="fgsm", max_robust_accuracy=1, seed=seed) for seed in (0, 1)]
    assert torch.equal(variants(still[0]), variants(still[1]))
    no_start = [attack(attacked, random_start=False, seed=seed) for seed in (0, 1)]
    assert torch.equal(variants(no_start[0]), variants(no_start[1]))


def test_a_target_is_reached_or_the_row_goes(attacked):
    split = attack(attacked, target="next_class", max_robust_accuracy=1, epsilon=0.15)
    rows = split.rows[split.rows["is_anomalous"]]
    assert (rows["label"] == (rows["clean_label"] + 1) % 10).all()
    facts = split.summary["facts"]["attack"]["all"]
    assert facts["failed"] > 0 and facts["robust_accuracy"] <= facts["failed"] / facts["attempted"]


@pytest.mark.parametrize("head", ["binary", "multilabel"])
def test_other_heads_are_attacked(tmp_path, head):
    flags = {**FLAGS, "train.head": head, "task.classes": "[3, 8]", "task.max_rows": "null", "attack.epsilon": "0.4"}
    made = run_chain(make_engine(tmp_path), "attack", flags)
    facts = made["attack"].summary["facts"]["attack"]["all"]
    rows = made["attack"].rows[made["attack"].rows["is_anomalous"]]
    assert facts["succeeded"] > 0.8 * facts["attempted"] and (rows["label"] == 1 - rows["clean_label"]).all()


def test_an_attack_that_fails_is_an_error(attacked):
    with pytest.raises(DataError, match=r"the attack failed: .* 0\.\d+ of the attacked rows right.*epsilon \(0.01\)"):
        attack(attacked, epsilon=0.01)
    with pytest.raises(DataError, match=r"epsilon \(0.01\)$"):  # fgsm has no steps to raise
        attack(attacked, epsilon=0.01, method="fgsm")
    facts = attack(attacked, epsilon=0.05, max_robust_accuracy=1).summary["facts"]["attack"]["all"]
    assert facts["robust_accuracy"] > 0.1


# --- adaptive attacks


def test_an_adaptive_attack_lowers_the_auroc_of_its_detector(attacked):
    plain = attacked.artifacts["detect"].summary["auroc"]
    key = attacked.artifacts["fit"].key
    adaptive = auroc(attacked, detector=key, detector_weight=0.3, max_robust_accuracy=0.3)
    assert plain > 0.95 and adaptive < 0.6, (plain, adaptive)
    assert auroc(attacked, detector=key, detector_weight=0) == pytest.approx(plain, abs=0.03)


TRAINED = ("vae", "abstraction", "finetuning")


def test_an_adaptive_attack_hangs_on_its_detector(attacked, monkeypatch):
    """On its code as it is today, and it keeps the detector from being collected."""
    fitted, plain = attacked.artifacts["fit"].key, attacked.artifacts["attack"].key
    against = {**FLAGS, "attack.detector": fitted}

    def keys() -> tuple[str, str]:
        engine = Engine(attacked.engine.settings, attacked.engine.store)
        chosen = [chains.resolve("attack", SMALL, flags, {}, engine.store) for flags in (FLAGS, against)]
        return tuple(chains.keys(engine, chain)["attack"] for chain in chosen)

    made = attack(attacked, detector=fitted)
    assert keys() == (plain, made.key) and made.meta["inputs"]["detector"] == fitted
    assert fitted in _kept(attacked.engine.store, made.meta["created"] - 1e-3)
    assert "detector" not in attacked.artifacts["attack"].meta["inputs"]
    mended = lambda *modules: code_digest(*modules) + ("!" if "mad.detectors.mahalanobis" in modules else "")  # noqa: E731
    monkeypatch.setattr("mad.runtime.engine.code_digest", mended)
    after = keys()
    assert after[0] == plain and after[1] != made.key


def test_what_became_of_the_attack_is_told(attacked):
    summary = attacked.artifacts["attack"].summary
    assert summary["robust_accuracy"] == summary["facts"]["attack"]["all"]["robust_accuracy"]
    assert summary["succeeded"] == summary["facts"]["attack"]["all"]["succeeded"] > 0


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_the_score_attacked_is_that_of_detect(attacked, model, name):
    flags = {"detector": name, **({"detector.epochs": "2"} if name in TRAINED else {})}
    made = attacked.run("detect", flags, extract=attacked.features)
    split, table = attacked.artifacts["attack"], made["detect"].table("scores.parquet")
    table = table[table["part"] == "test"]
    rows = torch.from_numpy(pd.Index(split.rows["id"]).get_indexer(pd.Index(table["id"])).astype("int64"))
    read = DetectorScore(made["fit"], model, split.input_shape, attacked.engine.store, "cpu")
    x = split.images(rows).requires_grad_()
    logits, scores = read(x)
    assert torch.allclose(logits, model(x), atol=1e-5)
    torch.testing.assert_close(
        scores.detach(), torch.from_numpy(table["score"].to_numpy(copy=True)), rtol=1e-3, atol=1e-3
    )
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    assert torch.isfinite(gradient).all() and (gradient.flatten(1).norm(dim=1) > 0).all()


def test_the_gradient_of_the_score_is_its_slope(attacked, model):
    split = attacked.artifacts["attack"]
    read = DetectorScore(attacked.artifacts["fit"], model, split.input_shape, attacked.engine.store, "cpu")
    x = split.images(anomalous(split)[:8]).requires_grad_()
    (gradient,) = torch.autograd.grad(read(x)[1].sum(), x)
    step = 1e-3 * torch.nn.functional.normalize(gradient.flatten(1), dim=1).view_as(x)
    with torch.no_grad():
        slope = (read(x + step)[1] - read(x - step)[1]) / 2e-3
    assert torch.allclose(slope.float(), gradient.flatten(1).norm(dim=1), rtol=0.02)


def test_the_gain_is_the_loss_less_the_weighted_score():
    logits, scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([3.0, 4.0]).double()
    labels = torch.tensor([0, 0])
    losses = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    gain, success = make_objective(lambda x: (logits, scores), "multiclass", labels, Options(detector_weight=0.5), 2)(
        labels
    )
    assert torch.allclose(gain, losses - 0.5 * scores) and success.tolist() == [False, True]
    aimed = make_objective(lambda x: (logits, None), "multiclass", labels, Options(target="next_class"), 2)
    gain, success = aimed(labels)
    assert torch.allclose(gain, -torch.nn.functional.cross_entropy(logits.double(), 1 - labels, reduction="none"))
    assert success.tolist() == [False, True]


def test_detectors_that_cannot_be_attacked_are_told(attacked, world):
    knn = attacked.run("fit", {"detector": "knn"}, extract=attacked.features)["fit"]
    with pytest.raises(ConfigError, match=r"the score of knn has no gradient .*mahalanobis, spectral, que, vae"):
        attack(attacked, detector=knn.key)
    with pytest.raises(ArtifactError, match="no artifact 'fit-00000000000000000000'") as error:
        attack(attacked, detector="fit-00000000000000000000")
    assert "\n" not in str(error.value)
    other = attacked.run("fit", {**FLAGS, "train.epochs": "4"})["fit"]
    with pytest.raises(ConfigError, match=rf"{other.key} was fitted on model train-.*, the attack is on train-"):
        attack(attacked, detector=other.key)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epsilon": 0}, "attack: epsilon must be above 0, got 0"),
        ({"step_size": 0}, "attack: step_size must be above 0, got 0"),
        ({"steps": 0}, "attack: steps must be 1 or more, got 0"),
        ({"restarts": 2, "random_start": False}, "attack: restarts 2 needs random_start true"),
        ({"max_robust_accuracy": 2}, r"attack: max_robust_accuracy must be in \[0, 1\], got 2"),
        ({"detector": "mahalanobis"}, "attack: detector must be the key of a fitted one, .* got mahalanobis"),
        ({"detector_weight": -1}, "attack: detector_weight must be 0 or more, got -1"),
        ({"norm": "l1"}, "--attack.norm: expected 'linf' | 'l2', got 'l1'"),
    ],
)
def test_mistakes_are_told(attacked, options, said):
    with pytest.raises(ConfigError, match=said):
        attack(attacked, **options)


def test_a_model_of_other_classes_is_refused(attacked):
    flags = {name: value for name, value in FLAGS.items() if not name.startswith("attack.")}
    few = attacked.run("train", {**flags, "task.classes": "[0, 1, 2]", "train.epochs": "1"})["train"]
    with pytest.raises(ConfigError, match="the checkpoint has 3 outputs, the task has 10 classes"):
        attacked.run("attack", {}, prepare=attacked.split, train=few)


# --- which rows are left


def table_of(part: str, clean: int, attacked: int, classes: int = 4) -> pd.DataFrame:
    n = clean + attacked
    return pd.DataFrame(
        {
            "id": [f"{part}-{i:06d}" for i in range(n)],
            "part": part,
            "source": np.arange(n),
            "variant": -1,
            "label": np.arange(n) % classes,
            "clean_label": np.arange(n) % classes,
            "is_anomalous": np.arange(n) >= clean,
            "control": "",
        }
    )


def outcome(table: pd.DataFrame, success: list[bool]) -> dict[str, torch.Tensor]:
    true = torch.from_numpy(table.loc[table["is_anomalous"], "clean_label"].to_numpy(copy=True))
    won = torch.tensor(success)
    return {"answer": true + won, "answer_before": true, "success": won, "size": torch.ones(len(won))}


def test_failed_rows_go_and_clean_rows_of_every_class_with_them():
    table = table_of("test", 40, 20)
    left = attacked_rows(table, outcome(table, [True, False] * 10), first=5, seed=0)
    assert left["is_anomalous"].sum() == 10 and (~left["is_anomalous"]).sum() == 20
    assert left.loc[left["is_anomalous"], "variant"].tolist() == list(range(5, 25, 2))
    assert left.loc[~left["is_anomalous"], "clean_label"].value_counts().tolist() == [5, 5, 5, 5]
    assert left["id"].is_monotonic_increasing
    again = attacked_rows(table, outcome(table, [True, False] * 10), first=5, seed=0)
    other = attacked_rows(table, outcome(table, [True, False] * 10), first=5, seed=1)
    assert left.equals(again) and not left["id"].equals(other["id"])


def test_parts_are_counted_apart():
    table = pd.concat([table_of("validation", 10, 10), table_of("test", 10, 10)], ignore_index=True)
    found = outcome(table, [True] * 5 + [False] * 5 + [True] * 10)
    left = attacked_rows(table, found, first=0, seed=0)
    assert left.groupby("part")["is_anomalous"].agg(["size", "sum"]).loc["validation"].tolist() == [10, 5]
    assert left.groupby("part")["is_anomalous"].agg(["size", "sum"]).loc["test"].tolist() == [20, 10]
    facts = attack_facts(table, left, found)
    assert facts["validation"]["robust_accuracy"] == 0.5 and facts["test"]["robust_accuracy"] == 0
    assert facts["all"]["clean_rows_dropped"] == 5 and facts["all"]["failed"] == 5


def test_a_part_keeps_both_kinds_or_it_is_told():
    table = table_of("test", 2, 10)
    left = attacked_rows(table, outcome(table, [True] + [False] * 9), first=0, seed=0)
    assert left["is_anomalous"].tolist() == [False, True]
    with pytest.raises(DataError, match="none of the 10 attacks on test rows succeeded"):
        attacked_rows(table, outcome(table, [False] * 10), first=0, seed=0)


def test_parts_of_one_kind_stay_of_one_kind():
    every = table_of("test", 0, 10)
    assert (
        attacked_rows(every, outcome(every, [True, False] * 5), first=0, seed=0)["is_anomalous"].tolist() == [True] * 5
    )
    none = table_of("test", 10, 0)
    left = attacked_rows(none, {k: v[:0] for k, v in outcome(every, [True] * 10).items()}, first=0, seed=0)
    assert left.equals(none)


def test_parts_without_clean_rows_are_counted():
    table = table_of("test", 0, 5)
    found = outcome(table, [True] * 4 + [False])
    facts = attack_facts(table, attacked_rows(table, found, 0, seed=1), found)
    assert facts["test"]["succeeded"] == 4 and facts["test"]["clean_rows_dropped"] == 0


def test_facts_of_the_task_are_brought_up_to_date():
    rows = {"train": {"rows": 9, "anomalous": 0}, "test": {"rows": 4, "anomalous": 1}}
    assert changed_facts(rows) == {
        "rows": {"train": 9, "test": 4},
        "anomalous_rows": {"train": 0, "test": 1},
        "anomalous_fraction": {"test": 0.25},
    }
