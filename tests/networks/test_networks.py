"""Networks, by what they compute: invariances, conditioning, gradients, and whether they can learn.

Tolerances: float64 networks agree within 1e-9 relative where only the order of summation differs (each output sums
fewer than 1e4 products of order one, so rounding stays below 1e4 * 1e-16). All random numbers are seeded.
"""

import contextlib
import itertools
import json
import math

import pytest
import torch

from undrift.errors import LabelError, ShapeError, UndriftError
from undrift.networks import MLP, NETWORKS, LinearEncoder, Transformer, UNet
from undrift.networks.embed import ClassEmbedding, Embedding, FourierFeatures

K = 3
TINY = {"widths": (8, 12, 16), "blocks": 1, "attention": (2,)}
CASES = {
    "MLP": (lambda **kw: MLP(5, width=16, blocks=2, **kw), (5,)),
    "UNet1-odd": (lambda **kw: UNet(2, spatial=1, **TINY, **kw), (2, 13)),
    "UNet1-single": (lambda **kw: UNet(1, spatial=1, **TINY, **kw), (1, 1)),
    "UNet2-8x8": (lambda **kw: UNet(1, spatial=2, **TINY, **kw), (1, 8, 8)),
    "UNet2-odd": (lambda **kw: UNet(3, spatial=2, **TINY, **kw), (3, 7, 10)),
    "UNet3-odd": (lambda **kw: UNet(2, spatial=3, **TINY, **kw), (2, 3, 6, 5)),
    "UNet2-one-level": (lambda **kw: UNet(1, widths=(10,), blocks=2, **kw), (1, 3, 3)),
    "Transformer1": (lambda **kw: Transformer((3, 5), width=12, depth=2, heads=3, **kw), (3, 5)),
    "Transformer2": (lambda **kw: Transformer((2, 4, 6), patch=2, width=16, depth=2, heads=2, **kw), (2, 4, 6)),
    "Transformer3": (lambda **kw: Transformer((1, 2, 4, 2), patch=2, width=16, depth=1, heads=1, **kw), (1, 2, 4, 2)),
    "LinearEncoder": (lambda **kw: LinearEncoder(5, 3, width=16, **kw), (5,)),
}
COLUMNS = (0, 3, 0)
every_case = pytest.mark.parametrize("case", CASES)
CONDITIONED = [
    (case, columns, image)
    for case, (_, event) in CASES.items()
    for columns, image in ((COLUMNS, 0), ((), 2), (COLUMNS, 2))
    if not image or len(event) > 1
]
every_condition = pytest.mark.parametrize(
    ("case", "columns", "image"), CONDITIONED, ids=[f"{case}-{len(columns)}-{image}" for case, columns, image in CONDITIONED]
)


def build(case, perturb=True, **kw):
    """A float64 network; perturbed, no layer is silent any more."""
    torch.manual_seed(0)
    make, event = CASES[case]
    net = make(**kw).double().eval()
    if perturb:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p), alpha=0.3 / math.sqrt(max(1, p[0].numel())))
    return net, event


def batch(event, n=4, seed=1):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *event, generator=rng, dtype=torch.float64)
    return x, torch.linspace(-2.5, 2.5, n, dtype=torch.float64), torch.arange(n) % (K + 1)


def rows(event, columns, image, n=4):
    """Conditions of which about half is not asked, and in the first row everything; all are (n, ...)."""
    rng = torch.Generator().manual_seed(2)
    parts = [torch.randint(max(k, 2), (n, 1), generator=rng).double() for k in columns]
    grid = torch.randn(n, image, *event[1:], generator=rng, dtype=torch.float64)
    if image and not columns:
        full = grid
    else:
        full = torch.cat([*parts, grid.flatten(1)] if image else parts, dim=1)
    asked = torch.rand(full.shape, generator=rng) < 0.5
    asked[0] = True
    return torch.where(asked, full, math.nan)


def made(case, columns, image):
    kinds = {"columns": columns} if not image else {"columns": columns, "image": image}
    return build(case, **kinds)


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@every_case
def test_starts_as_the_zero_function(case):
    net, event = build(case, perturb=False, classes=K)
    x, noise, cond = batch(event)
    out = net(x, noise, cond)
    assert out.shape == x.shape
    assert torch.equal(out, torch.zeros_like(x))


@every_case
def test_label_changes_the_output(case):
    net, event = build(case, classes=K)
    x, noise, _ = batch(event, n=1)
    outs = [net(x, noise, torch.tensor([k])) for k in range(K + 1)]
    for i in range(K + 1):
        for j in range(i):
            assert (outs[i] - outs[j]).norm() > 1e-6 * outs[i].norm()  # rounding: 1e-15; one pixel moves little


@every_case
def test_noise_label_changes_the_output(case):
    net, event = build(case)
    x, _, _ = batch(event, n=1)
    levels = [net(x, torch.tensor([c], dtype=torch.float64)) for c in (-2.5, -2.4, 0.0, 2.4, 2.5)]
    for a, b in itertools.pairwise(levels):
        assert (a - b).norm() > 1e-3 * a.norm()


@every_case
def test_no_label_is_the_null_label(case):
    net, event = build(case, classes=K)
    x, noise, _ = batch(event)
    assert torch.equal(net(x, noise), net(x, noise, torch.full((len(x),), K)))


@every_condition
def test_no_condition_is_nothing_asked_bit_for_bit(case, columns, image):
    net, event = made(case, columns, image)
    x, noise, _ = batch(event)
    assert torch.equal(net(x, noise), net(x, noise, torch.full_like(rows(event, columns, image), math.nan)))


@every_condition
def test_every_entry_of_a_condition_matters(case, columns, image):
    # From nothing asked, each entry alone changes the output: whether it is asked, and what it says (1e-7: far above the
    # rounding of float64, and below what one pixel of the grid does). Of a grid a dozen entries, the last one among them.
    net, event = made(case, columns, image)
    x, noise, _ = batch(event, n=1)
    cond = torch.full_like(rows(event, columns, image, n=1), math.nan)
    last = cond.numel() - 1
    for i in {*range(len(columns)), *range(last, -1, -(1 + last // 12))}:
        outs = []
        for value in (math.nan, 0.0, 1.0):
            cond.view(-1)[i] = value
            outs.append(net(x, noise, cond))
            cond.view(-1)[i] = math.nan
        for a, b in itertools.combinations(outs, 2):
            assert (a - b).norm() > 1e-7 * a.norm(), i


@every_condition
def test_a_row_is_unchanged_by_the_conditions_of_its_neighbours(case, columns, image):
    net, event = made(case, columns, image)
    x, noise, _ = batch(event)
    cond = rows(event, columns, image)
    together = net(x, noise, cond)
    for i in range(len(x)):
        assert_same(net(x[i : i + 1], noise[i : i + 1], cond[i : i + 1])[0], together[i])
    moved = torch.cat([cond[:1], torch.full_like(cond[1:], math.nan)])
    assert_same(net(x, noise, moved)[0], together[0])


@every_condition
def test_gradients_are_finite_beside_nan(case, columns, image):
    net, event = made(case, columns, image)
    x, noise, _ = batch(event)
    cond = rows(event, columns, image).requires_grad_()
    net(x.requires_grad_(), noise, cond).square().sum().backward()
    assert x.grad.isfinite().all()
    assert torch.equal(cond.grad[cond.isnan()], torch.zeros(int(cond.isnan().sum()), dtype=torch.float64))
    assert cond.grad.isfinite().all()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.norm() > 1e-9, name


@every_condition
def test_a_few_steps_of_training_and_the_condition_counts(case, columns, image):
    # At the start the network is the zero function. The first step moves its head, the second what is modulated.
    net, event = made(case, columns, image)
    torch.manual_seed(0)
    net = NETWORKS[type(net).__name__](**net.config()).double()
    x, noise, _ = batch(event)
    cond = rows(event, columns, image)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x, noise, cond) - x.flip(-1)).square().mean().backward()
        optimizer.step()
    assert (net(x, noise, cond) - net(x, noise))[0].abs().max() > 1e-8  # float64: nothing else is not exactly zero


@every_condition
def test_no_call_waits_for_a_device(case, columns, image, monkeypatch):
    # Tensors on "meta" have no values: whatever reads one back, as a check of a device's values would, is an error there.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # there is none on "meta"
    net, event = made(case, columns, image)
    net.to("meta").train()
    x, noise, _ = (part.to("meta") for part in batch(event))
    for cond in (None, rows(event, columns, image).to("meta")):
        out = net(x, noise, cond)
        assert out.shape == x.shape
        out.sum().backward()


@every_condition
def test_config_rebuilds_the_conditions(case, columns, image):
    net, event = made(case, columns, image)
    again = NETWORKS[type(net).__name__](**json.loads(json.dumps(net.config()))).double().eval()
    again.load_state_dict(net.state_dict())
    x, noise, _ = batch(event)
    cond = rows(event, columns, image)
    assert torch.equal(net(x, noise, cond), again(x, noise, cond))
    assert (again.columns, getattr(again, "image", 0)) == (columns, image)


@every_case
def test_sample_is_unchanged_by_its_batch_neighbours(case):
    net, event = build(case, classes=K)
    x, noise, cond = batch(event)
    together = net(x, noise, cond)
    for i in range(len(x)):
        assert_same(net(x[i : i + 1], noise[i : i + 1], cond[i : i + 1])[0], together[i])


@every_case
def test_gradients_reach_every_parameter(case):
    net, event = build(case, classes=K)
    x, noise, cond = batch(event, n=K + 1)
    x.requires_grad_()
    net(x, noise, cond).square().sum().backward()
    assert (x.grad.flatten(1).norm(dim=1) > 0).all()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.norm() > 1e-9, name
        if name.endswith("label.table.weight"):
            assert (p.grad.norm(dim=1) > 1e-9).all()


@every_case
def test_every_pixel_of_the_input_and_output_is_used(case):
    # Sizes are halved with ceil and doubled to the skip's size: a fault there cuts off or repeats the last pixel.
    net, event = build(case)
    x, noise, _ = batch(event, n=1)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v, noise), x).reshape(x.numel(), x.numel())
    if x.numel() > 1:
        assert (jacobian.norm(dim=0) > 1e-9).all()
        assert (jacobian.norm(dim=1) > 1e-9).all()


@every_case
@pytest.mark.parametrize("classes", [None, K])
def test_config_rebuilds_the_network(case, classes):
    dropout = {} if case == "LinearEncoder" else {"dropout": 0.25}
    net, event = build(case, classes=classes, **dropout)
    config = json.loads(json.dumps(net.config()))
    again = NETWORKS[type(net).__name__](**config).double().eval()
    again.load_state_dict(net.state_dict())
    x, noise, cond = batch(event)
    args = (x, noise) if classes is None else (x, noise, cond)
    assert torch.equal(net(*args), again(*args))
    assert again.config() == net.config()
    assert all(getattr(again, name) == value for name, value in dropout.items())


@every_case
def test_construction_is_a_function_of_the_global_seed_only(case):
    a, b = (build(case, perturb=False)[0].state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("case", [case for case in CASES if case != "LinearEncoder"])
def test_dropout_acts_while_training_only(case):
    net, event = build(case, dropout=0.5)
    x, noise, _ = batch(event)
    assert torch.equal(net(x, noise), net(x, noise))
    net.train()
    torch.manual_seed(0)
    assert not torch.equal(net(x, noise), net(x, noise))


@every_case
def test_arguments_are_not_changed_and_the_dtype_is_kept(case):
    net, event = build(case, classes=K)
    x, noise, cond = batch(event)
    kept = x.clone(), noise.clone(), cond.clone()
    net(x, noise, cond)
    assert all(torch.equal(a, b) for a, b in zip(kept, (x, noise, cond), strict=True))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert net(x.to(dtype), noise, cond).dtype == dtype
    # A float32 network on a float64 state: the state's dtype comes back, float32 accuracy inside.
    exact, single = net(x, noise, cond), net.float()(x, noise, cond)
    assert single.dtype == torch.float64
    assert (exact - single).norm() < 1e-4 * exact.norm()


@every_case
def test_autocast_stays_near(case):
    # bfloat16 keeps 8 bits: some ten roundings in a row, of 0.4 % at most each, and no more than that.
    net, event = build(case, classes=K)
    net.float()
    x, noise, cond = (part.float() if part.is_floating_point() else part for part in batch(event))
    with torch.no_grad():
        full = net(x, noise, cond)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fast = net(x, noise, cond)
    assert fast.dtype == torch.float32
    assert 0 < (fast - full).norm() < 0.04 * full.norm()


@pytest.mark.parametrize("spatial", [1, 2])
def test_unet_shifts_with_its_input(spatial):
    # A bump far from the border moves by one coarsest pixel (2 levels: 2 fine pixels): so does the response. The group
    # norm's statistics are sums over positions and do not change, the border's response stays where it is.
    torch.manual_seed(0)
    net = UNet(1, spatial=spatial, widths=(8, 8), blocks=1).double().eval()
    with torch.no_grad():
        net.head.weight.normal_()
        for block in net.modules():
            if hasattr(block, "conv_out"):
                block.conv_out.weight.normal_(std=0.1)
    x = torch.zeros(1, 1, *(80,) * spatial, dtype=torch.float64)
    x[(..., *(slice(36, 40),) * spatial)] = torch.randn((4,) * spatial, dtype=torch.float64)
    noise = torch.zeros(1, dtype=torch.float64)
    axes = tuple(range(2, 2 + spatial))
    out, moved = net(x, noise), net(x.roll((2,) * spatial, axes), noise)
    inside = (..., *(slice(24, 56),) * spatial)
    assert_same(out.roll((2,) * spatial, axes)[inside], moved[inside])
    assert (out[inside] - moved[inside]).abs().max() > 0.1


def test_attention_joins_distant_pixels():
    # Without attention, group-norm statistics alone join the two ends; they cannot tell where a change happened.
    def mixed(attention):
        torch.manual_seed(0)
        net = UNet(1, spatial=1, widths=(8,), blocks=1, attention=attention).double().eval()
        with torch.no_grad():
            for p in net.parameters():
                p.normal_(std=0.4)
        x = torch.randn(1, 1, 64, dtype=torch.float64)
        noise = torch.zeros(1, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda v: net(v, noise), x).reshape(64, 64)
        return torch.linalg.matrix_rank(jacobian[:24, 40:], rtol=1e-9)

    assert mixed((0,)) > mixed(())


@pytest.mark.parametrize(
    ("make", "event"),
    [
        (lambda: UNet(1, widths=(16, 24), blocks=1, attention=(1,), classes=2), (1, 5, 6)),
        (lambda: MLP(6, width=32, classes=2), (6,)),
        (lambda: Transformer((2, 6), width=32, depth=2, classes=2), (2, 6)),
        (lambda: LinearEncoder(6, 6, width=64, classes=2), (6,)),
    ],
    ids=["UNet", "MLP", "Transformer", "LinearEncoder"],
)
def test_overfits_a_tiny_regression(make, event):
    # The target depends on all three arguments: the right answer is x read forwards or backwards by the class, scaled
    # by the noise label. A network that ignores the label is left with half the variance, one that ignores the noise
    # with more than a tenth; fitting 32 fixed samples to 2 % needs all three.
    torch.manual_seed(0)
    net = make()
    x, noise, cond = torch.randn(32, *event), torch.linspace(-2, 2, 32), torch.arange(32) % 2
    flipped = torch.where(cond.view(-1, *(1,) * len(event)) == 1, x.flip(-1), x)
    target = flipped * noise.cos().view(-1, *(1,) * len(event))
    mean_predictor = (target - target.mean(0)).square().mean()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(150):
        loss = (net(x, noise, cond) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.02 * mean_predictor
    wrong = (net(x, noise, 1 - cond) - target).square().mean()
    assert wrong > 0.3 * mean_predictor


def test_fourier_features_are_the_formula():
    features = FourierFeatures(6)(torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64))
    for row, c in zip(features.tolist(), (0.0, 1.0, -2.0), strict=True):
        expected = [f(w * c) for f in (math.cos, math.sin) for w in (0.25, 2.0, 16.0)]
        assert row == pytest.approx(expected, abs=1e-12)


def test_fourier_features_keep_float32_accuracy_in_a_half_network():
    c = torch.linspace(-2.5, 2.5, 101)
    full, half = FourierFeatures(8), FourierFeatures(8).bfloat16()
    half.frequencies = full.frequencies
    assert torch.equal(full(c), half(c))
    assert half(c.bfloat16()).dtype == torch.float32


def test_fourier_features_separate_every_level():
    # Distinct labels stay distinct: neighbours 1 % of sigma apart differ by far more than float32 rounding (1e-7).
    c = torch.arange(-2.5, 2.5, 0.01 / 4)
    features = FourierFeatures(64)(c)
    distances = torch.cdist(features.double(), features.double()) + torch.eye(len(c))
    assert distances.min() > 1e-2


def test_null_row_is_one_more_than_the_classes():
    table = ClassEmbedding(K, 7)
    assert table.table.weight.shape == (K + 1, 7)
    assert torch.equal(table(torch.tensor([K]))[0], table.table.weight[K])


X = torch.zeros(2, 1, 8, 8)
V = torch.zeros(2, 5)
C = torch.zeros(2)
L = torch.zeros(2, dtype=torch.long)
UNET = UNet(1, widths=(8,), blocks=1, classes=K)
BARE = MLP(5, width=8, blocks=1)
ERRORS = {
    "events": (lambda: UNET(V, C), ShapeError, r"shape \(2, 5\).*takes float \(B, 1, any, any\)"),
    "channels": (lambda: UNET(X.expand(2, 3, 8, 8), C), ShapeError, "reshape x, or build the UNet"),
    "empty": (lambda: UNET(X[..., :0], C), ShapeError, "reshape x"),
    "integers": (lambda: UNET(X.long(), C), ShapeError, "takes float"),
    "features": (lambda: BARE(V[:, :4], C), ShapeError, r"MLP: x has shape \(2, 4\).*\(B, 5\)"),
    "noise-scalar": (lambda: BARE(V, torch.tensor(0.0)), ShapeError, r"torch\.full\(\(len\(x\),\), level\)"),
    "noise-length": (lambda: UNET(X, torch.zeros(3)), ShapeError, r"for 2 samples; give one noise label per sample"),
    "noise-dtype": (lambda: UNET(X, L), ShapeError, "one float per sample"),
    "cond-length": (lambda: UNET(X, C, L[:1]), ShapeError, "one class index per sample"),
    "cond-unwanted": (lambda: BARE(V, C, L), LabelError, "build it with classes=K, or leave cond out"),
    "cond-high": (lambda: UNET(X, C, L + K + 1), LabelError, r"classes 0\.\.2 and the null label 3"),
    "cond-negative": (lambda: UNET(X, C, L - 1), LabelError, "map your labels"),
    "cond-dtype": (lambda: UNET(X, C, L.int()), LabelError, r"cond\.long\(\)"),
    "spatial": (lambda: UNet(1, spatial=4), ShapeError, "2 for images"),
    "no-widths": (lambda: UNet(1, widths=()), ShapeError, "at least one width"),
    "no-blocks": (lambda: UNet(1, blocks=0), ShapeError, "positive numbers"),
    "attention": (lambda: UNet(1, attention=(2,)), ShapeError, r"0\.\.1, 0 the finest"),
    "classes": (lambda: UNet(1, classes=0), LabelError, "or None for no labels"),
    "mlp-width": (lambda: MLP(5, width=7), ShapeError, "an even width"),
    "mlp-features": (lambda: MLP(0), ShapeError, "at least 1 feature"),
    "fourier": (lambda: FourierFeatures(5), ShapeError, "an even number"),
    "embedding": (lambda: Embedding(2), ShapeError, "an even number"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_the_cure(name):
    call, kind, text = ERRORS[name]
    with pytest.raises(kind, match=text) as caught:
        call()
    assert isinstance(caught.value, UndriftError)


def test_registry_names_the_classes():
    assert {name: cls.__name__ for name, cls in NETWORKS.items()} == {name: name for name in NETWORKS}
