import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mad.config import canonical
from mad.errors import ArtifactError, ConfigError
from mad.models import load
from mad.models.architectures import cnn, mlp, preactresnet
from mad.models.classifier import build_classifier
from mad.models.load import load_classifier, optimizer_to_tensors, save_classifier, tensors_to_optimizer

SHAPE, MEAN, STD = (1, 8, 8), (0.1,), (0.3,)


def make(config=None, seed=1, num_outputs=3):
    config = config or mlp.Config(hidden=(8, 4))
    model = build_classifier(config, SHAPE, num_outputs, MEAN, STD, seed)
    described = {
        "model": canonical(config, "models"),
        "input_shape": list(SHAPE),
        "num_outputs": num_outputs,
        "mean": list(MEAN),
        "std": list(STD),
        "head": "multiclass",
    }
    return model, described


@pytest.fixture
def saved(tmp_path):
    model, described = make()
    save_classifier(tmp_path / "checkpoint", model, described)
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    "config",
    [mlp.Config(), cnn.Config(readout="flatten"), preactresnet.Config(width=4)],
    ids=lambda c: c.__module__,
)
def test_a_saved_classifier_comes_back_bit_for_bit_in_eval_mode(tmp_path, config):
    model, described = make(config)
    with torch.no_grad():
        model(torch.rand(16, *SHAPE))  # moves the running statistics of batch norm
    save_classifier(tmp_path / "m", model, described)
    again = load_classifier(tmp_path / "m")
    assert not again.training and not any(m.training for m in again.modules())
    x = torch.rand(4, *SHAPE)
    assert torch.equal(again(x), model.eval()(x))
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in model.state_dict().items())


def test_the_same_classifier_is_saved_as_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_classifier(tmp_path / name, *make())
    for file in (load.WEIGHTS, load.DESCRIPTION):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_b1_26_folders_with_dots_in_their_names_do_not_collide(tmp_path):
    for seed, name in ((1, "m_0.5"), (2, "m_0.7")):
        save_classifier(tmp_path / name, *make(seed=seed))
    weights = [load_classifier(tmp_path / name).network.head.weight for name in ("m_0.5", "m_0.7")]
    assert not torch.equal(*weights)


class Bomb:
    def __reduce__(self):
        return exec, ("raise AssertionError('a pickle was loaded')",)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "pytorch_model.bin", "last.ckpt", load.WEIGHTS])
@pytest.mark.parametrize("write", [lambda p: torch.save(Bomb(), p), lambda p: p.write_bytes(pickle.dumps(Bomb()))])
def test_b1_26_pickles_are_never_loaded(saved, name, write):
    (saved / load.WEIGHTS).unlink()
    write(saved / name)
    for offered in (saved, saved / name):
        with pytest.raises(ArtifactError, match="pickles are never loaded") as caught:
            load_classifier(offered)
        assert "\n" not in str(caught.value)


def test_tensors_that_do_not_fit_are_named(saved):
    path = saved / load.WEIGHTS
    tensors = load_file(path)
    tensors["network.layers.0.0.weight"] = torch.zeros(8, 63)
    del tensors["network.head.bias"]
    tensors["network.extra"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(ArtifactError) as caught:
        load_classifier(saved)
    text = str(caught.value)
    assert "network.layers.0.0.weight is float32[8, 63], expected float32[8, 64]" in text
    assert "network.head.bias is missing" in text and "network.extra is unknown" in text
    assert "\n" not in text


def test_only_the_first_mismatches_are_named(saved):
    described = json.loads((saved / load.DESCRIPTION).read_text())
    described["model"]["hidden"] = [9, 9, 9]
    (saved / load.DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match=r"network\.layers\.0\.0\.weight .* and \d+ more$"):
        load_classifier(saved)


def test_another_dtype_does_not_fit(saved):
    path = saved / load.WEIGHTS
    save_file({name: t.half() for name, t in load_file(path).items()}, path)
    with pytest.raises(ArtifactError, match="float16.*expected float32"):
        load_classifier(saved)


@pytest.mark.parametrize("keep", [0, 5, 200, -8])
def test_a_truncated_file_is_damaged(saved, keep):
    path = saved / load.WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="damaged") as caught:
        load_classifier(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["model"].update(name="mlpp"), "unknown model 'mlpp'.*mlp"),
        (lambda d: d["model"].update(hiden=[1]), "model.hiden"),
        (lambda d: d.pop("mean"), "mean"),
        (lambda d: d.update(input_shape=[1, 8]), "input_shape"),
        (lambda d: d.update(num_outputs="many"), "describes no classifier"),
    ],
)
def test_a_wrong_description_is_told_in_one_line(saved, edit, message):
    described = json.loads((saved / load.DESCRIPTION).read_text())
    edit(described)
    (saved / load.DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(ArtifactError, match=message) as caught:
        load_classifier(saved)
    assert "\n" not in str(caught.value)


def test_absent_and_garbled_files(saved, tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        load_classifier(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="give its folder"):
        load_classifier(saved / load.WEIGHTS)
    (saved / load.DESCRIPTION).write_text("{")
    with pytest.raises(ArtifactError, match="describes no classifier"):
        load_classifier(saved)
    (saved / load.DESCRIPTION).unlink()
    with pytest.raises(ArtifactError, match="No such file"):
        load_classifier(saved)


def test_an_incomplete_description_is_not_saved(tmp_path):
    model, described = make()
    del described["head"]
    with pytest.raises(ConfigError, match="lacks head"):
        save_classifier(tmp_path / "m", model, described)
    assert not (tmp_path / "m").exists()


TIED = """
from dataclasses import dataclass
from torch import nn

LAYERS = ("down.output",)

@dataclass(frozen=True)
class Config:
    width: int = 4

def build(config, input_shape, num_outputs):
    network = nn.Sequential()
    network.add_module("flat", nn.Flatten())
    network.add_module("down", nn.Linear(64, 64))
    network.add_module("same", nn.Linear(64, 64))
    network.same.weight = network.down.weight
    network.add_module("head", nn.Linear(64, num_outputs))
    return network
"""


def test_tied_weights_are_written_once_and_stay_tied(tmp_path, monkeypatch):
    (tmp_path / "tied_network.py").write_text(TIED)
    monkeypatch.syspath_prepend(tmp_path)
    import tied_network

    model, described = make(tied_network.Config())
    save_classifier(tmp_path / "m", model, described)
    assert "network.same.weight" not in load_file(tmp_path / "m" / load.WEIGHTS)
    again = load_classifier(tmp_path / "m")
    assert again.network.same.weight is again.network.down.weight
    x = torch.rand(2, *SHAPE)
    assert torch.equal(again(x), model.eval()(x))


def network_and_batches():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(6, 8, 6)


def steps(network, optimizer, batches):
    for x in batches:
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit_from_a_checkpoint_without_pickle(tmp_path, name):
    network, batches = network_and_batches()
    optimizer = OPTIMIZERS[name](network.parameters())
    steps(network, optimizer, batches[:3])
    optimizer.param_groups[0]["lr"] = 0.05  # as a schedule would
    tensors, data = optimizer_to_tensors(optimizer)
    save_file(tensors, tmp_path / "optimizer.safetensors")
    (tmp_path / "optimizer.json").write_text(json.dumps(data))
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    steps(network, optimizer, batches[3:])

    resumed, _ = network_and_batches()
    resumed.load_state_dict(weights)
    fresh = OPTIMIZERS[name](resumed.parameters())
    read = load_file(tmp_path / "optimizer.safetensors")
    tensors_to_optimizer(fresh, read, json.loads((tmp_path / "optimizer.json").read_text()))
    assert {k: v for k, v in fresh.param_groups[0].items() if k != "params"} == {
        k: v for k, v in optimizer.param_groups[0].items() if k != "params"
    }
    steps(resumed, fresh, batches[3:])
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), resumed.parameters(), strict=True))


def test_loading_an_optimizer_copies_the_tensors():
    network, batches = network_and_batches()
    optimizer = OPTIMIZERS["sgd_momentum"](network.parameters())
    steps(network, optimizer, batches[:1])
    tensors, data = optimizer_to_tensors(optimizer)
    kept = {k: v.clone() for k, v in tensors.items()}
    resumed, _ = network_and_batches()
    fresh = OPTIMIZERS["sgd_momentum"](resumed.parameters())
    tensors_to_optimizer(fresh, tensors, data)
    steps(resumed, fresh, batches[1:3])
    assert all(torch.equal(kept[k], tensors[k]) for k in kept)


def test_an_optimizer_that_does_not_fit_is_refused():
    network, batches = network_and_batches()
    optimizer = OPTIMIZERS["adam"](network.parameters())
    steps(network, optimizer, batches[:1])
    tensors, data = optimizer_to_tensors(optimizer)
    with pytest.raises(ArtifactError, match="holds the state of Adam, the optimiser is SGD"):
        tensors_to_optimizer(OPTIMIZERS["sgd"](network.parameters()), tensors, data)
    with pytest.raises(ArtifactError, match="parameter groups"):
        tensors_to_optimizer(OPTIMIZERS["adam"](network[0].parameters()), tensors, data)
    wider = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 2))
    with pytest.raises(ArtifactError, match=r"'0/exp_avg' has shape \[5, 6\], its parameter \[7, 6\]"):
        tensors_to_optimizer(OPTIMIZERS["adam"](wider.parameters()), tensors, data)


def test_an_option_that_is_no_plain_data_is_refused():
    network, _ = network_and_batches()
    optimizer = torch.optim.Adam(network.parameters(), lr=torch.tensor(0.1))
    with pytest.raises(ConfigError, match="Adam cannot be written without a pickle"):
        optimizer_to_tensors(optimizer)


def test_a_header_that_begins_like_a_pickle_is_read(saved):
    """The first byte is the low byte of the header's length, and may be the one that begins a pickle."""
    path = saved / load.WEIGHTS
    tensors = load_file(path)
    for padding in range(512):
        save_file(tensors, path, metadata={"padding": "x" * padding})
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == b"\x80"
    assert load_classifier(saved)
