"""The transformer against its formula written out by hand: one block on two tokens, patches, places, permutations."""

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from undrift.errors import LabelError, ShapeError
from undrift.networks import Transformer
from undrift.networks.transformer import TransformerBlock, cut, join, places


def perturbed(*args, scale=0.2, **kw):
    """A float64 transformer in which no layer is silent."""
    torch.manual_seed(0)
    net = Transformer(*args, **kw).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=scale)
    return net


def test_block_is_the_formula_written_out():
    # Two tokens of four features, two heads of two, one number at a time in Python floats.
    torch.manual_seed(0)
    block = TransformerBlock(4, 2, 0.0).double()
    h, modulation = torch.randn(1, 2, 4, dtype=torch.float64), torch.randn(1, 24, dtype=torch.float64)
    weights = {name: p.tolist() for name, p in block.named_parameters()}
    b1, a1, g1, b2, a2, g2 = (modulation[0, 4 * i : 4 * i + 4].tolist() for i in range(6))

    def linear(name, v):
        pairs = zip(weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True)
        return [sum(w * u for w, u in zip(row, v, strict=True)) + bias for row, bias in pairs]

    def modulated(v, a, b):
        mean = sum(v) / 4
        deviation = math.sqrt(sum((u - mean) ** 2 for u in v) / 4 + 1e-5)
        return [(1 + a[i]) * (v[i] - mean) / deviation + b[i] for i in range(4)]

    def gelu(u):
        return 0.5 * u * (1 + math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))

    tokens = h[0].tolist()
    qkv = [linear("qkv", modulated(v, a1, b1)) for v in tokens]
    after = []
    for i in (0, 1):
        mixed = []
        for head in (0, 1):
            own = slice(2 * head, 2 * head + 2)
            query, keys, values = qkv[i][own], [row[4:8][own] for row in qkv], [row[8:][own] for row in qkv]
            odds = [math.exp(sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(2)) for key in keys]
            mixed += [sum(o * value[c] for o, value in zip(odds, values, strict=True)) / sum(odds) for c in (0, 1)]
        out = linear("out", mixed)
        v = [tokens[i][c] + g1[c] * out[c] for c in range(4)]
        out = linear("second", [gelu(u) for u in linear("first", modulated(v, a2, b2))])
        after.append([v[c] + g2[c] * out[c] for c in range(4)])
    torch.testing.assert_close(block(h, modulation)[0], torch.tensor(after, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_starts_with_every_block_the_identity():
    torch.manual_seed(0)
    net = Transformer((2, 4, 4), patch=2, width=16, depth=3, heads=2, classes=2)
    h, cond = torch.randn(5, 4, 16), torch.arange(5) % 3
    modulation = net.modulation(net.embedding(torch.linspace(-2, 2, 5), cond))
    assert modulation.shape == (5, (6 * 3 + 2) * 16)
    assert torch.equal(modulation, torch.zeros_like(modulation))
    for i, layer in enumerate(net.layers):
        assert torch.equal(layer(h, modulation[:, 96 * i : 96 * (i + 1)]), h)
        # The branches themselves are not silent: opening the gates alone is enough to hear them.
        assert (layer(h, torch.ones(5, 96)) - h).norm() > 0.1 * h.norm()
    x = torch.randn(5, 2, 4, 4)
    assert torch.equal(net(x, torch.zeros(5), cond), torch.zeros_like(x))


@pytest.mark.parametrize("part", range(6))
def test_every_block_has_its_own_modulations(part):
    # Six for each block, two for the head, in the order of the formula.
    net = perturbed((1, 4), width=8, depth=2, heads=2).eval()
    x, noise = torch.randn(3, 1, 4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    seen = []
    for layer in net.layers:
        layer.register_forward_hook(lambda module, args, out: seen.append(args[1].clone()))
    net(x, noise)
    before = list(seen)
    for block in (0, 1):
        with torch.no_grad():
            row = 8 * (6 * block + part)
            net.modulation.bias[row : row + 8] += 1
        seen.clear()
        net(x, noise)
        moved = [now - then for now, then in zip(seen, before, strict=True)]
        expected = torch.zeros(48, dtype=torch.float64)
        expected[8 * part : 8 * part + 8] = 1
        torch.testing.assert_close(moved[block], expected.expand(3, 48), rtol=0, atol=1e-12)
        torch.testing.assert_close(moved[1 - block], torch.zeros_like(moved[0]), rtol=0, atol=1e-12)
        with torch.no_grad():
            net.modulation.bias[row : row + 8] -= 1


@pytest.mark.parametrize(("space", "patch"), [((6,), 2), ((4,), 1), ((4, 6), 2), ((2, 4, 6), 2), ((3, 6), 3)])
def test_patches_are_cut_and_joined_in_place(space, patch):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *space, generator=rng)
    tokens = tuple(size // patch for size in space)
    h = cut(x, patch)
    assert h.shape == (2, math.prod(tokens), 3 * patch ** len(space))
    assert torch.equal(join(h, patch, tokens), x)
    # Each token holds exactly the numbers of its own patch, the channels outermost.
    for i, place in enumerate(torch.cartesian_prod(*(torch.arange(n) for n in tokens)).reshape(-1, len(space)).tolist()):
        window = tuple(slice(patch * u, patch * (u + 1)) for u in place)
        assert torch.equal(h[:, i], x[(slice(None), slice(None), *window)].reshape(2, -1))


def test_places_are_the_formula():
    code = places((3, 2), 18)  # two axes: four frequencies each, and two features too many
    for i, place in enumerate([(u, v) for u in range(3) for v in range(2)]):
        expected = [f(u * 10000 ** (-j / 4)) for u in place for f in (math.sin, math.cos) for j in range(4)]
        assert code[i].tolist() == pytest.approx([*expected, 0.0, 0.0], abs=1e-6)
    # No two places share a code, also far out.
    far = places((1000,), 64).double()
    assert (torch.cdist(far, far) + torch.eye(1000)).min() > 0.1


def test_places_are_no_part_of_the_weights():
    assert "places" not in Transformer((1, 4), width=8, depth=1, heads=2).state_dict()


def test_a_set_permutes_with_its_members_and_a_sequence_does_not():
    order = torch.tensor([2, 0, 4, 1, 3])
    x, noise = torch.randn(2, 3, 5, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    grid = torch.randn(2, 1, 5, dtype=torch.float64)
    grid[:, :, 2] = torch.nan
    for ordered in (False, True):
        net = perturbed((3, 5), width=16, depth=2, heads=2, image=1, ordered=ordered).eval()
        moved, out = net(x[:, :, order], noise, grid[:, :, order]), net(x, noise, grid)[:, :, order]
        if ordered:
            assert (moved - out).norm() > 0.01 * out.norm()
        else:
            torch.testing.assert_close(moved, out, rtol=1e-9, atol=1e-9)
    assert Transformer((3, 5), width=16, depth=2, heads=2, ordered=False).config()["ordered"] is False


def test_attention_joins_every_pair_of_patches():
    net = perturbed((1, 6), width=16, depth=1, heads=4).eval()
    x, noise = torch.randn(1, 1, 6, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v, noise), x).reshape(6, 6)
    assert (jacobian.abs() > 1e-6 * jacobian.abs().max()).all()


def test_a_grid_acts_at_its_own_place():
    # With attention shut (its gate at zero) patches are apart: what was seen in one patch moves that patch alone.
    net = perturbed((1, 8), patch=2, width=16, depth=2, heads=2, image=1).eval()
    with torch.no_grad():
        for block in (0, 1):
            gate = slice(16 * (6 * block + 2), 16 * (6 * block + 3))
            net.modulation.weight[gate], net.modulation.bias[gate] = 0, 0
    x, noise = torch.randn(1, 1, 8, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    grid = torch.full_like(x, torch.nan)
    grid[0, 0, 5] = 1.0
    moved = (net(x, noise, grid) - net(x, noise))[0, 0].abs()
    assert (moved[4:6] > 1e-6).all()
    assert (moved[[0, 1, 2, 3, 6, 7]] == 0).all()


def test_recomputed_features_give_the_same_gradients():
    net = perturbed((1, 8), patch=2, width=16, depth=2, heads=2, dropout=0.5, classes=2).train()
    x, noise = torch.randn(3, 1, 8, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    results = []
    for net.checkpoint in (False, True):
        torch.manual_seed(1)
        out = net(x, noise, torch.arange(3))
        results.append((out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_derivatives_of_every_mode_agree():
    net = perturbed((2, 3), width=8, depth=2, heads=2).eval()
    x, v = torch.randn(2, 2, 2, 3, dtype=torch.float64)
    noise = torch.zeros(2, dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):
        forward = torch.func.jvp(lambda u: net(u, noise), (x,), (v,))[1]
        second = torch.autograd.functional.jvp(lambda u: net(u, noise), x, v)[1]  # two reverse passes
        each = torch.func.vmap(torch.func.jacrev(lambda u, n: net(u[None], n[None])[0]))(x, noise)
    jacobian = torch.autograd.functional.jacobian(lambda u: net(u, noise), x)  # the fused attention
    torch.testing.assert_close(forward, torch.einsum("bijckl,ckl->bij", jacobian, v), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(forward, torch.einsum("bijkl,bkl->bij", each, v), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(forward, second, rtol=1e-9, atol=1e-9)


NET = Transformer((1, 4, 4), patch=2, width=8, depth=1, heads=2, columns=(0,), image=1)
X, C = torch.zeros(2, 1, 4, 4), torch.zeros(2)
ERRORS = {
    "vector": (lambda: Transformer((5,)), ShapeError, "a plain vector takes an MLP"),
    "four": (lambda: Transformer((1, 2, 2, 2, 2)), ShapeError, "one to three sizes"),
    "patch": (lambda: Transformer((1, 4, 6), patch=4), ShapeError, r"a patch that divides \(4, 6\)"),
    "heads": (lambda: Transformer((1, 4), width=16, heads=3), ShapeError, "heads that divide width"),
    "depth": (lambda: Transformer((1, 4), depth=0), ShapeError, "at least one block"),
    "width": (lambda: Transformer((1, 4, 4, 4), width=4), ShapeError, "at least 6"),
    "size": (lambda: NET(X[..., :2], C), ShapeError, r"takes float \(B, 1, 4, 4\)"),
    "noise": (lambda: NET(X, torch.zeros(3)), ShapeError, "one noise label per sample"),
    "cond-shape": (lambda: NET(X, C, torch.zeros(2, 16)), ShapeError, r"reads \(2, 17\): 1 columns, then a grid"),
    "both": (lambda: Transformer((1, 4), classes=2, image=1), LabelError, "make the class a column"),
    "image": (lambda: Transformer((1, 4), image=-1), LabelError, "number of channels of the grid"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_the_cure(name):
    call, kind, text = ERRORS[name]
    with pytest.raises(kind, match=text):
        call()
