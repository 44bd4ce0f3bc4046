import pytest
import torch
from torch import nn

from mad import registry
from mad.config import canonical, parse
from mad.errors import ConfigError
from mad.models.architectures import cnn, mlp, preactresnet, torchvision
from mad.models.capture import capture, resolve
from mad.models.classifier import depends_on_sharding

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]
COUNTS = [2, 10, 43]
SMALL = {
    "mlp": mlp.Config(hidden=(16, 8)),
    "cnn": cnn.Config(channels=(4, 6), dense=(8,)),
    "cnn_deep_flat": cnn.Config(
        channels=(4,) * 6,
        kernel_sizes=(5, 3, 3, 3, 1, 1),
        strides=(2, 1, 1, 1, 1, 1),
        dense=(),
        readout="flatten",
    ),
    "cnn_unpooled": cnn.Config(channels=(4, 4), pooling="none", readout="max"),
    "preactresnet18": preactresnet.Config(width=4),
    "preactresnet50": preactresnet.Config(depth=50, width=4),
    "resnet18": torchvision.Config(),
    "mobilenet_v3_small": torchvision.Config(classifier="mobilenet_v3_small"),
}


# Every shape with every count for what is cheap to build, each shape and count once for the rest.
CASES = [
    (name, shape, count)
    for name, config in SMALL.items()
    for i, shape in enumerate(SHAPES)
    for count in ([COUNTS[i]] if isinstance(config, torchvision.Config) else COUNTS)
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Nets this small only lose time to threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def architecture(config):
    return registry.load("models", type(config).__module__.rsplit(".", 1)[-1])


@pytest.mark.parametrize(("name", "shape", "num_outputs"), CASES)
def test_b1_33_any_image_size_channel_count_and_class_count(name, shape, num_outputs):
    module = architecture(SMALL[name])
    network = module.build(SMALL[name], shape, num_outputs).eval()
    names = resolve(network, module.LAYERS)
    features, logits = capture(network, names, lambda: network(torch.rand(2, *shape)))
    assert logits.shape == (2, num_outputs)
    assert torch.isfinite(logits).all()
    assert all(len(h) == 2 and h.ndim in (2, 4) for h in features.values())


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter(name):
    network = architecture(SMALL[name]).build(SMALL[name], (3, 32, 32), 3)
    network(torch.rand(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_mlp_computes_what_its_weights_say():
    network = mlp.build(mlp.Config(hidden=(5, 4)), (2, 3, 3), 3)
    x = torch.rand(7, 2, 3, 3)
    (a, _), (b, _) = network.layers[0], network.layers[1]
    h = torch.relu(x.reshape(7, 18) @ a.weight.T + a.bias)
    h = torch.relu(h @ b.weight.T + b.bias)
    torch.testing.assert_close(network(x), h @ network.head.weight.T + network.head.bias)
    assert resolve(network, mlp.LAYERS) == ["layers.0.output", "layers.1.output"]


def test_cnn_computes_what_its_weights_say():
    network = cnn.build(cnn.Config(channels=(3,), kernel_sizes=(1,), dense=(), readout="mean"), (2, 4, 4), 2)
    x = torch.rand(5, 2, 4, 4)
    conv = network.layers[0][0]
    h = torch.relu(torch.einsum("oc,nchw->nohw", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None])
    h = h.reshape(5, 3, 2, 2, 2, 2).amax(dim=(3, 5)).mean(dim=(2, 3))
    torch.testing.assert_close(network(x), h @ network.head.weight.T + network.head.bias)


def test_cnn_blocks_are_convolutions_then_dense():
    network = cnn.build(cnn.Config(channels=(4, 6), dense=(8, 7)), (1, 8, 8), 2)
    names = resolve(network, cnn.LAYERS)
    features, _ = capture(network, names, lambda: network(torch.rand(2, 1, 8, 8)))
    assert [tuple(h.shape[1:]) for h in features.values()] == [(4, 4, 4), (6, 2, 2), (8,), (7,)]


# Parameters of the post-activation networks for ImageNet, as torchvision publishes them. Pre-activation moves
# norms without changing their total, drops those on projections, and ours has a 3 x 3 stem for small images.
PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_preactresnet_has_the_published_number_of_parameters(depth):
    with torch.device("meta"):
        network = preactresnet.build(preactresnet.Config(depth=depth), (3, 32, 32), 1000)
    projections = (128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)
    stem = 64 * 3 * (7 * 7 - 3 * 3)
    count = sum(p.numel() for p in network.parameters())
    assert count == PUBLISHED[depth] - stem - 2 * sum(projections)


def test_preactresnet_halves_the_map_and_doubles_the_channels_at_each_stage():
    network = preactresnet.build(preactresnet.Config(depth=50, width=4), (3, 32, 32), 10).eval()
    names = resolve(network, preactresnet.LAYERS)
    features, _ = capture(network, names, lambda: network(torch.rand(1, 3, 32, 32)))
    shapes = {name: tuple(h.shape[1:]) for name, h in features.items()}
    assert shapes == {
        "stage1.output": (16, 32, 32),
        "stage2.output": (32, 16, 16),
        "stage3.output": (64, 8, 8),
        "stage4.output": (128, 4, 4),
    }


def test_preactresnet_unit_is_identity_plus_residual():
    network = preactresnet.build(preactresnet.Config(width=4), (3, 8, 8), 2).eval()
    block = network.stage1[1]
    x = torch.randn(2, 4, 8, 8)
    h = block.convs[1](torch.relu(block.norms[1](block.convs[0](torch.relu(block.norms[0](x))))))
    torch.testing.assert_close(block(x), x + h)
    for conv in block.convs:
        nn.init.zeros_(conv.weight)
    assert torch.equal(block(x), x)


def test_preactresnet_projection_starts_behind_the_activation():
    block = preactresnet.build(preactresnet.Config(width=4), (3, 8, 8), 2).eval().stage2[0]
    for conv in block.convs:
        nn.init.zeros_(conv.weight)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block(x), block.shortcut(torch.relu(block.norms[0](x))))


def test_preactresnet_first_unit_shares_its_activation_with_the_skip_path():
    block = preactresnet.build(preactresnet.Config(width=4), (3, 8, 8), 2).eval().stage1[0]
    for conv in block.convs:
        nn.init.zeros_(conv.weight)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), torch.relu(block.norms[0](x)))


def test_torchvision_resizes_small_inputs_and_leaves_large_ones():
    small = torchvision.build(torchvision.Config(min_size=40), (3, 8, 48), 2).eval()
    x = torch.rand(2, 3, 8, 48)
    resized = nn.functional.interpolate(x, size=(40, 48), mode="bilinear", align_corners=False)
    assert torch.equal(small(x), small.model(resized))
    large = torchvision.build(torchvision.Config(), (3, 40, 36), 2).eval()
    x = torch.rand(2, 3, 40, 36)
    assert torch.equal(large(x), large.model(x))


@pytest.mark.parametrize(
    ("name", "size"),
    [("alexnet", (63, 63)), ("vit_b_32", (224, 224)), ("inception_v3", (75, 75)), ("vgg11", (32, 32))],
)
def test_torchvision_default_size_is_one_the_model_accepts(name, size):
    config = torchvision.Config(classifier=name)
    with torch.device("meta"):
        assert torchvision.build(config, (1, 8, 8), 2).size == size


@pytest.mark.parametrize("name", ["regnet_y_400mf", "swin_t", "densenet121", "googlenet", "mnasnet0_5", "maxvit_t"])
def test_torchvision_default_layers_exist_in_every_family(name):
    with torch.device("cpu"):
        network = torchvision.build(torchvision.Config(classifier=name), (3, 32, 32), 2)
    assert len(resolve(network, torchvision.LAYERS)) >= 3


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (mlp.Config(), False),
        (cnn.Config(readout="flatten"), False),
        (preactresnet.Config(depth=152), True),
        (torchvision.Config(), True),
        (torchvision.Config(classifier="vgg11"), True),
        # Computes its widths with tensors while it is built, which cannot be done on the meta device.
        (torchvision.Config(classifier="regnet_y_128gf"), True),
    ],
    ids=lambda value: str(value)[:60],
)
def test_depends_on_sharding(config, expected):
    before = torch.get_rng_state()
    assert depends_on_sharding(config, (3, 32, 32), 10) is expected
    assert torch.equal(torch.get_rng_state(), before)


def test_all_architectures_are_plugins_and_their_configs_round_trip():
    assert {"mlp", "cnn", "preactresnet", "torchvision"} <= set(registry.names("models"))
    for config in SMALL.values():
        data = canonical(config, "models")
        module = registry.load("models", data.pop("name"))
        assert parse(module.Config, data) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp.Config(hidden=()), "hidden"),
        (lambda: mlp.Config(hidden=(8, 0)), "hidden"),
        (lambda: cnn.Config(channels=()), "channels"),
        (lambda: cnn.Config(strides=(0,)), "strides"),
        (lambda: cnn.Config(channels=(4, 4, 4), kernel_sizes=(3, 3)), "kernel_sizes: give 1 or 3 values"),
        (lambda: preactresnet.Config(width=0), "width"),
        (lambda: preactresnet.Config(depth=20), "depth"),
        (lambda: torchvision.Config(classifier="resnet19"), "did you mean .*resnet18"),
        (lambda: torchvision.Config(min_size=0), "min_size"),
        (lambda: torchvision.Config(classifier="vit_b_16", min_size=64), "224 only"),
        (
            lambda: torchvision.build(torchvision.Config("alexnet", 16), (3, 8, 8), 2),
            "alexnet does not accept",
        ),
    ],
)
def test_bad_options_are_told_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
