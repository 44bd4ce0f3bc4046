"""Chains: what runs, from which settings, and how artifacts are given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import pytest

from mad.__main__ import main
from mad.artifacts import Artifact
from mad.context import Silent
from mad.errors import ArtifactError, ConfigError
from mad.files import facts_of
from mad.runtime import chain as chains
from mad.runtime.chain import find_reference, import_folder, keys, open_reference, resolve
from mad.runtime.launcher import AutoLauncher
from mad.runtime.settings import Settings
from mad.store import Store
from tests.conftest import SMALL, run_chain


def stages(chain: chains.Chain) -> list[str]:
    return [stage.name for stage in chain.stages]


def resolved(
    world, target: str, flags: dict | None = None, base: dict | None = None, **given: Artifact
) -> chains.Chain:
    return resolve(target, base or {}, flags or {}, given, world.engine.store)


@pytest.fixture(scope="module")
def elsewhere(world) -> dict[str, Artifact]:
    """The shared detector on rows with another trigger."""
    return world.run("report", {"task.trigger": "noise"}, fit=world.artifacts["fit"])


def test_a_chain_is_everything_before_its_target(world):
    assert stages(resolved(world, "detect")) == ["prepare", "train", "attack", "extract", "fit", "detect"]
    assert stages(resolved(world, "detect", extract=world.features)) == ["fit", "detect"]
    assert stages(resolved(world, "extract", train=world.checkpoint)) == ["prepare", "attack", "extract"]


def test_asking_again_finds_everything_done(world):
    world.engine.hits.clear()
    again = world.run("report")
    assert {name: a.key for name, a in again.items()} == {name: a.key for name, a in world.artifacts.items()}
    assert world.engine.hits == ["prepare", "train", "extract", "fit", "detect", "report"]


def test_keys_are_those_that_running_makes(world):
    found = keys(world.engine, resolved(world, "report", base=SMALL))
    assert found == {name: artifact.key for name, artifact in world.artifacts.items()}


def test_flags_win_over_the_file_and_the_file_over_the_lineage(world):
    lineage = resolved(world, "detect", train=world.checkpoint)
    assert lineage.config.task.max_rows == 600
    file = resolved(world, "detect", base={"task": {"max_rows": 500}}, train=world.checkpoint)
    assert file.config.task.max_rows == 500
    flag = resolved(world, "detect", {"task.max_rows": "400"}, {"task": {"max_rows": 500}}, train=world.checkpoint)
    assert flag.config.task.max_rows == 400


def test_one_file_serves_every_stage_but_holds_no_unknown_section(world):
    file = {"detector": "knn", "detect": {"bootstrap": 0}, "train": {"epochs": 2}}
    assert resolved(world, "train", base=file).config.train.epochs == 2
    with pytest.raises(ConfigError, match=r"unknown option '--detectr' \(did you mean"):
        resolved(world, "detect", base={"detectr": "knn"})


@pytest.mark.parametrize(
    ("target", "flags", "given", "said"),
    [
        ("detect", {"train.epochs": "1"}, ["train"], "--train.epochs would change nothing: --checkpoint is given"),
        ("detect", {"train.epochs": "1"}, ["fit"], "--train.epochs would change nothing: --fitted is given"),
        ("detect", {"model": "cnn"}, ["extract"], "--model would change nothing: --features is given"),
        ("detect", {"detector.k": "1"}, ["fit"], "--detector.k would change nothing: --fitted is given"),
        ("report", {"detect.bootstrap": "1"}, ["detect"], "--detect.bootstrap would change nothing: --scores is given"),
        ("train", {"detector": "knn"}, [], "unknown option '--detector'"),
        ("detect", {"trian.epochs": "1"}, [], "unknown option '--trian.epochs' (did you mean train?)"),
        ("detect", {"train.epoch": "1"}, [], "unknown option 'train.epoch' (did you mean epochs?)"),
        ("detect", {"detector.k": "1"}, [], "unknown option 'detector.k'"),
    ],
)
def test_options_that_do_nothing_are_refused(world, target, flags, given, said):
    with pytest.raises(ConfigError) as error:
        resolved(world, target, flags, **{name: world.artifacts[name] for name in given})
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["attack"], "mad attack would do nothing: task backdoor has no rows to attack (adversarial has)"),
        (["attack", "--dry_run"], "mad attack would do nothing: task backdoor has no rows to attack"),
        (["detect", "--attack.epsilon", "0.3"], "--attack.epsilon would change nothing: task backdoor has no rows"),
        (["detect", "--force", "attack"], "--force attack would do nothing: task backdoor has no rows to attack"),
        (["sweep", "backdoor", "--attack.epsilon", "0.3"], "--attack.epsilon would change nothing: task backdoor"),
        (["sweep", "adversarial", "--task", "backdoor"], "--attack.epsilon would change nothing: task backdoor"),
        (["detect", "--task", "adversarial", "--attack.epsilon", "0.3"], ""),
        (["detect", "--force", "all"], ""),
        (["sweep", "adversarial", "--attack.steps", "3"], ""),
    ],
)
def test_attacks_on_a_task_without_rows_to_attack_are_refused(words, said, capsys):
    words = words if "--dry_run" in words else [*words, "--dry_run"]
    assert main([*words, "--no_tracking"]) == (2 if said else 0)
    told = capsys.readouterr().err.strip()
    assert "\n" not in told and said in told and bool(said) == bool(told)


def test_what_is_given_cannot_be_forced(world, capsys, monkeypatch):
    monkeypatch.setenv("MAD_STORE", world.engine.store.uri)
    words = ["detect", "--fitted", world.artifacts["fit"].key, "--no_tracking", "--dry_run", "--force"]
    assert main([*words, "fit"]) == 2 and main([*words, "detect"]) == 0
    assert "--force fit would do nothing: its result is given" in capsys.readouterr().err


def test_options_of_an_attack_are_refused_where_its_result_is_given(world):
    with pytest.raises(ConfigError, match="--attack.epsilon would change nothing: --attacked is given"):
        resolved(world, "extract", {"attack.epsilon": "0.3"}, attack=world.split)


def test_rows_that_are_yet_to_be_attacked_do_not_pass_for_attacked_ones(world):
    store, settings = world.engine.store, world.engine.settings
    marked = world.run("prepare", {"task": "adversarial"})["prepare"]
    with pytest.raises(ArtifactError, match="was made by stage 'prepare', an artifact of stage 'attack' is needed"):
        open_reference(marked.key, "attack", store, settings)
    assert open_reference(world.split.key, "attack", store, settings).key == world.split.key


def test_a_detector_keeps_its_model_on_other_rows(world, elsewhere):
    assert elsewhere["train"].key == world.checkpoint.key and elsewhere["fit"].key == world.artifacts["fit"].key
    for name in ("prepare", "extract", "detect", "report"):
        assert elsewhere[name].key != world.artifacts[name].key
    assert elsewhere["prepare"].meta["config"]["task"]["trigger"]["name"] == "noise"
    assert elsewhere["prepare"].meta["config"]["task"]["max_rows"] == 600, "the rest is as the detector's own"


def test_scores_on_other_rows_lead_back_to_those_rows(world, elsewhere):
    assert elsewhere["detect"].meta["lineage"]["prepare"]["key"] == elsewhere["prepare"].key
    assert elsewhere["extract"].meta["lineage"]["prepare"]["key"] == elsewhere["prepare"].key
    again = world.run("report", {}, detect=elsewhere["detect"])
    assert again["report"].key == elsewhere["report"].key


def test_given_rows_go_before_those_of_a_given_detector(world, elsewhere):
    chain = resolved(world, "detect", base=SMALL, prepare=elsewhere["prepare"], fit=world.artifacts["fit"])
    assert stages(chain) == ["attack", "extract", "detect"] and chain.given["train"].key == world.checkpoint.key
    assert keys(world.engine, chain)["detect"] == elsewhere["detect"].key


def test_artifacts_of_different_models_are_refused(world):
    other = world.run("extract", {"train.seed": "1"})
    with pytest.raises(ArtifactError) as error:
        resolved(world, "detect", extract=other["extract"], fit=world.artifacts["fit"])
    assert str(error.value).startswith("the given artifacts belong to different models: train-")
    with pytest.raises(ArtifactError, match="different models"):
        resolved(world, "detect", train=other["train"], fit=world.artifacts["fit"])


def test_an_ancestor_that_is_gone_is_told(world, tmp_path):
    store = Store(str(tmp_path / "empty"))
    with pytest.raises(ArtifactError, match=f"no artifact '{world.checkpoint.key}'"):
        resolve("detect", {}, {}, {"fit": world.artifacts["fit"]}, store)


def find(world, reference: object, stage: str = "train") -> Artifact:
    return open_reference(str(reference), stage, world.engine.store, world.engine.settings)


def test_references_by_key_name_and_folder(world, tmp_path, monkeypatch):
    world.engine.store.set_name("small-mlp", world.checkpoint.key)
    (tmp_path / "small-mlp").write_text("a file of that name here does not hide the artifact")
    monkeypatch.chdir(tmp_path)
    for reference in (world.checkpoint.key, "small-mlp", world.checkpoint.folder):
        assert find(world, reference).key == world.checkpoint.key


def test_a_later_artifact_stands_for_its_ancestors(world):
    assert find(world, world.artifacts["detect"].key).key == world.checkpoint.key
    assert find(world, world.artifacts["detect"].folder, "fit").key == world.artifacts["fit"].key


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("prepare", "was made by stage 'prepare', an artifact of stage 'train' is needed"),
        ("train-0", "no artifact 'train-0' in"),
        ("../outside", "no artifact '../outside' in"),
        ("", "no artifact '' in"),
    ],
)
def test_wrong_and_absent_references_are_told(world, reference, said):
    with pytest.raises(ArtifactError) as error:
        find(world, world.artifacts[reference].key if reference in world.artifacts else reference)
    assert said in str(error.value)


def test_absent_references_are_told_with_the_nearest(world):
    world.engine.store.set_name("large-mlp", world.checkpoint.key)
    with pytest.raises(ArtifactError, match=r"did you mean .*large-mlp"):
        find(world, "large-mpl")
    with pytest.raises(ArtifactError, match=f"did you mean {world.checkpoint.key}"):
        find(world, world.checkpoint.key[:-1] + "?")


def test_a_pickle_is_refused(world, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match=r"is a file: give the folder of an artifact .* pickles are never loaded"):
        find(world, tmp_path / "model.pt")


def test_tracker_references_need_a_tracker(world):
    with pytest.raises(ArtifactError, match="needs MLflow: leave --no_tracking out"):
        find(world, "runs:/abc/checkpoint")


@pytest.fixture
def copied(world, tmp_path):
    """The checkpoint in a folder outside any store, and an empty store."""
    folder = tmp_path / "copied"
    shutil.copytree(world.checkpoint.folder, folder)
    return folder, Store(str(tmp_path / "store"))


def rewrite(folder, **changes) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))


def test_a_folder_from_elsewhere_is_taken_in_under_a_key_of_its_own(world, copied):
    folder, store = copied
    taken = import_folder(folder, store)
    assert taken.key.startswith("train-") and taken.key != world.checkpoint.key and store.keys() == [taken.key]
    assert taken.meta["imported_from"] == world.checkpoint.key and taken.folder.parent == folder.parent / "store"
    assert taken.meta["lineage"]["train"]["key"] == taken.key
    assert taken.meta["files"] == world.checkpoint.meta["files"]
    for again in (folder, taken.folder):
        assert import_folder(again, store).key == taken.key
    other = Store(f"{store.uri} of another")
    assert import_folder(taken.folder, other).key == taken.key and store.keys() == [taken.key]
    shutil.rmtree(folder)
    assert find_reference(taken.key, store, world.engine.settings).key == taken.key
    assert import_folder(taken.folder, world.engine.store).key == world.checkpoint.key, "the same files are there"


def test_altered_weights_are_no_cache_hit(world, copied):
    folder, store = copied
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    rewrite(folder, files={name: facts_of(folder / name) for name in world.checkpoint.meta["files"]})
    genuine = Store(str(folder.parent / "genuine"))
    shutil.copytree(world.checkpoint.folder, genuine.path(world.checkpoint.key))
    for where in (store, genuine):
        taken = import_folder(folder, where)
        assert taken.key != world.checkpoint.key and taken.meta["files"] != world.checkpoint.meta["files"]
    assert not store.has(world.checkpoint.key)
    assert genuine.open(world.checkpoint.key).meta["files"] == world.checkpoint.meta["files"]


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "train-0123456789abcdef0123"},
        {"identity": {}},
        {"stage": "fit", "lineage": {"fit": {}}},
        {"imported_from": "train-0123456789abcdef0123"},
    ],
)
def test_a_folder_may_not_claim_any_key(copied, changes):
    folder, store = copied
    rewrite(folder, **changes)
    with pytest.raises(ArtifactError, match=r"is not artifact 'train-[0-9a-f]{20}': its meta.json describes another"):
        import_folder(folder, store)
    assert store.keys() == []


def test_a_model_and_its_detector_are_taken_in_together(world, tmp_path, new_engine):
    engine = new_engine(tmp_path)
    given = {name: import_folder(world.artifacts[name].folder, engine.store) for name in ("train", "fit")}
    assert given["fit"].meta["lineage"]["train"]["key"] == world.checkpoint.key != given["train"].key
    made = run_chain(engine, "detect", {}, given)["detect"]
    assert made.meta["lineage"]["fit"]["key"] == given["fit"].key
    assert made.summary == world.artifacts["detect"].summary
    assert open_reference(made.key, "train", engine.store, engine.settings).key == given["train"].key
    other = world.run("train", {"train.seed": "1"})["train"]
    with pytest.raises(ArtifactError, match="different models"):
        resolve(
            "detect", {}, {}, {"train": import_folder(other.folder, engine.store), "fit": given["fit"]}, engine.store
        )


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_forced_training_forgets_the_checkpoints_of_every_kind_of_store(tmp_path, scheme):
    where = Settings(tmp_path / "home", f"{scheme}{tmp_path}/store", None, None)
    launcher = AutoLauncher(where, "cpu", Silent())
    folder = Path(launcher._shared(Store(where.store).uri)) / "train-1"
    folder.mkdir(parents=True)
    launcher.forget("train-1")
    assert not folder.exists()


@pytest.mark.parametrize("how", ["altered", "truncated", "missing"])
def test_a_damaged_folder_is_refused(copied, how):
    folder, store = copied
    file = folder / "weights.safetensors"
    body = file.read_bytes()
    file.unlink()
    if how != "missing":
        file.write_bytes(body[:-1] + (bytes([body[-1] ^ 1]) if how == "altered" else b""))
    expected = {"altered": "fails its sha256", "truncated": "has [0-9]+ bytes of", "missing": "is missing"}[how]
    with pytest.raises(ArtifactError, match=f"is damaged, fetch it again: weights.safetensors {expected}"):
        import_folder(folder, store)
    assert store.keys() == [] and not store.fs.exists(store.root)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "../../train-0123456789abcdef0123"},
        {"key": ".."},
        {"files": {"../evil": {"bytes": 0, "sha256": ""}}},
        {"files": {"/etc/evil": {"bytes": 0, "sha256": ""}}},
    ],
)
def test_a_folder_may_not_name_places_outside_itself(copied, changes):
    folder, store = copied
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))
    with pytest.raises(ArtifactError, match="holds an impossible key or file name"):
        import_folder(folder, store)


@pytest.mark.parametrize("text", ["{}", "[]", "not json", '{"key": "x", "stage": "train"}'])
def test_other_meta_data_is_no_artifact(copied, text, world):
    folder, _ = copied
    (folder / "meta.json").write_text(text)
    with pytest.raises(ArtifactError, match="is not an artifact"):
        find(world, folder)


@pytest.fixture(autouse=True)
def forget_memory():
    yield
    memory = fsspec.filesystem("memory")
    for folder in ("/frame-chain", "/frame-damage"):
        if memory.exists(folder):
            memory.rm(folder, recursive=True)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_the_whole_chain_on_another_kind_of_store(world, scheme, tmp_path, new_engine):
    uri = {"memory": "memory://frame-chain/store", "file": f"file://{tmp_path}/store"}[scheme]
    engine = new_engine(tmp_path / "home", uri)
    made = run_chain(engine, "report", {})
    assert {name: a.key for name, a in made.items()} == {name: a.key for name, a in world.artifacts.items()}
    for name, artifact in made.items():
        assert artifact.meta["files"] == world.artifacts[name].meta["files"], "the same bytes in any store"
    assert sorted(engine.store.keys()) == sorted({artifact.key for artifact in made.values()})
    assert not (tmp_path / "home" / "artifacts").exists()


@pytest.mark.parametrize("uri", [None, "memory://frame-damage/store"])
@pytest.mark.parametrize("how", ["truncated", "altered", "missing", "meta"])
def test_what_is_damaged_is_computed_again_with_a_warning(how, uri, tmp_path, new_engine, caplog):
    made = run_chain(new_engine(tmp_path, uri), "train", {})["train"]
    store = new_engine(tmp_path / "other node", uri or str(tmp_path / "artifacts")).store
    location = store.path(made.key, "meta.json" if how == "meta" else "weights.safetensors")
    body = store.fs.cat_file(location)
    if how == "missing":
        store.fs.rm(location)
    else:
        store.fs.pipe_file(location, body[:-1] if how != "altered" else body[:-1] + bytes([body[-1] ^ 1]))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    engine = new_engine(tmp_path, uri)
    again = run_chain(engine, "train", {})["train"]
    assert engine.hits == ["prepare"] and "computing it again" in caplog.text and made.key in caplog.text
    assert again.meta["files"] == made.meta["files"] and again.meta["created"] > made.meta["created"]
