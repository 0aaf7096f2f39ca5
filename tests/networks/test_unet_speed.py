"""What makes training fast must not change what is trained: the fused step, bfloat16, recomputation, depth by level.

Tolerances: in float64 the fused step is the composition of PyTorch's pieces up to rounding, about 1e-12. bfloat16 keeps 8
bits, so one rounding is 2^-9 = 0.2 % and a block's dozen of them, independent, stay below 2 %.
"""

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional

from undrift.errors import ShapeError
from undrift.networks import UNet
from undrift.networks.kernels import NormSilu, groups_of, norm_silu

TINY = {"widths": (16, 32, 48), "blocks": 1, "attention": (2,)}


def inputs(channels, space, per_sample, seed=0):
    """Features far from mean zero, and modulations with zeros among them; float64."""
    rng = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.5, 2, channels, dtype=torch.float64).view(channels, *(1,) * len(space))
    x = 2 + spread * torch.randn(3, channels, *space, generator=rng, dtype=torch.float64)
    shape = (3, channels) if per_sample else (channels,)
    scale, shift = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))
    scale[..., 0] = 0
    grad = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    return x, scale, shift, grad


def composition(x, scale, shift, groups, eps):
    whole = (-1, x.shape[1], *(1,) * (x.ndim - 2))
    return functional.silu(functional.group_norm(x, groups, eps=eps) * scale.view(whole) + shift.view(whole))


def way(function, x, scale, shift, grad, groups, eps=1e-5):
    leaves = [v.clone().requires_grad_() for v in (x, scale, shift)]
    out = function(*leaves, groups, eps)
    return out.detach(), *torch.autograd.grad(out, leaves, grad)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize(("channels", "groups", "space"), [(6, 2, (5,)), (8, 8, (3, 4)), (12, 1, (4, 4)), (6, 3, (2, 3, 2))])
def test_the_fused_step_is_the_composition(per_sample, channels, groups, space):
    # The hand-written way back against autograd, at an eps large enough to be missed if it were left out.
    given = inputs(channels, space, per_sample)
    for eps in (1e-5, 0.5):
        exact = way(composition, *given, groups, eps)
        for function in (NormSilu.apply, norm_silu):
            for a, b in zip(way(function, *given, groups, eps), exact, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_loses_only_its_rounding(per_sample, layout):
    x, scale, shift, grad = inputs(32, (16, 16), per_sample)
    x, grad = (v.bfloat16().contiguous(memory_format=layout) for v in (x, grad))
    got = way(norm_silu, x, scale.float(), shift.float(), grad, 2)
    exact = way(composition, x.double(), scale, shift, grad.double(), 2, 1e-5)
    for a, b in zip(got, exact, strict=True):
        assert (a.double() - b).norm() < 0.02 * b.norm()
    assert got[0].dtype == got[1].dtype == torch.bfloat16
    assert got[2].dtype == got[3].dtype == torch.float32
    assert got[0].is_contiguous(memory_format=layout)


def test_arguments_of_the_fused_step_are_not_changed():
    x, scale, shift, grad = inputs(8, (4, 4), True)
    kept = [v.clone() for v in (x, scale, shift, grad)]
    way(NormSilu.apply, x, scale, shift, grad, 2)
    assert all(torch.equal(a, b) for a, b in zip(kept, (x, scale, shift, grad), strict=True))


def test_a_second_derivative_of_the_fused_step_is_refused_and_float32_has_one():
    x, scale, shift, _ = inputs(8, (4, 4), True)
    for dtype in (torch.float32, torch.bfloat16):
        leaf = x.to(dtype).requires_grad_()
        out = norm_silu(leaf, scale.float(), shift.float(), 2).sum()
        if dtype == torch.float32:
            (first,) = torch.autograd.grad(out, leaf, create_graph=True)
            assert torch.autograd.grad(first.square().sum(), leaf)[0].norm() > 0
        else:
            with pytest.raises(ShapeError, match="leave autocast out"):
                torch.autograd.grad(out, leaf, create_graph=True)


def network(**changes):
    torch.manual_seed(0)
    net = UNet(2, **{**TINY, **changes})
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.3 / max(1, p[0].numel()) ** 0.5)
    rng = torch.Generator().manual_seed(1)
    spatial = net.spatial
    x = torch.randn(6, 2, *(12,) * spatial, generator=rng)
    return net, x, torch.linspace(-1, 1, 6), torch.randn(x.shape, generator=rng)


def gradients(net, x, noise, target, bf16):
    net.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = net(x, noise)
    (out - target).square().mean().backward()
    return out.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}


def test_training_in_bfloat16_is_training_in_float32_within_its_rounding():
    # A network of some twenty roundings in a row: 5 % of every gradient, 2 % of the output; a wrong factor or a missing
    # path shows as 100 %. Whole gradients are compared: a bias before a norm has next to none of its own.
    net, x, noise, target = network()
    exact, one = gradients(net, x, noise, target, bf16=False)
    out, other = gradients(net, x, noise, target, bf16=True)
    assert out.dtype == torch.float32
    assert (out - exact).norm() < 0.02 * exact.norm()
    largest = max(g.norm() for g in one.values())
    for name, g in one.items():
        assert other[name].dtype == torch.float32
        assert (other[name] - g).norm() < 0.05 * g.norm() + 1e-3 * largest, name


def test_the_noise_label_is_read_in_float32_in_bfloat16_training():
    net, _, noise, _ = network()
    seen = []
    net.embedding.register_forward_hook(lambda *call: seen.append(call[-1]))
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.zeros(6, 2, 8, 8), noise)
    assert torch.equal(seen[0], net.embedding(noise))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("spatial", [1, 2])
def test_checkpoints_change_no_gradient_and_keep_less(bf16, spatial):
    net, x, noise, target = network(spatial=spatial)
    again = copy.deepcopy(net)
    again.checkpoint = True
    kept = {}
    results = {}
    for which in (net, again):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            results[which] = gradients(which, x, noise, target, bf16)
        kept[which] = sum(sizes)
    assert torch.equal(results[net][0], results[again][0])
    for name, g in results[net][1].items():
        torch.testing.assert_close(results[again][1][name], g, rtol=1e-5, atol=1e-7)
    assert kept[again] < kept[net]


def test_attention_written_out_is_the_fused_kernel():
    # 64 positions take one way, 65 the other; a further position that nobody can attend to changes nothing.
    net = UNet(1, spatial=1, widths=(32,), blocks=1, attention=(0,)).double()
    block: Any = next(layer for layer in net.encoder.modules() if hasattr(layer, "qkv"))
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3)
    for positions in (64, 65):
        h = torch.randn(2, 32, positions, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        query, key, value = block.qkv(block.norm(h)).transpose(1, 2).chunk(3, dim=-1)
        weights = torch.softmax(torch.einsum("bic,bjc->bij", query, key) / 32**0.5, dim=-1)
        expected = h + block.out(torch.einsum("bij,bjc->bci", weights, value))
        torch.testing.assert_close(block(h), expected, rtol=1e-10, atol=1e-10)


def test_a_residual_block_is_its_formula():
    net, *_ = network()
    block: Any = next(layer for layer in net.double().decoder.modules() if hasattr(layer, "film"))
    rng = torch.Generator().manual_seed(3)
    h = torch.randn(3, block.conv_in.in_channels, 5, 5, generator=rng, dtype=torch.float64)
    embedding = torch.randn(3, block.film.in_features, generator=rng, dtype=torch.float64)
    branch = block.conv_in(functional.silu(block.norm_in(h)))
    scale, shift = (block.film(embedding)[:, half, None, None] for half in torch.arange(2 * branch.shape[1]).chunk(2))
    branch = block.conv_out(functional.silu((1 + scale) * block.norm_out(branch) + shift))
    torch.testing.assert_close(block(h, embedding), block.shortcut(h) + branch, rtol=1e-10, atol=1e-10)


def test_blocks_of_each_level():
    net = UNet(2, widths=(8, 16, 32), blocks=(0, 1, 2))
    depth = [sum(type(layer).__name__ == "ResidualBlock" for layer in level.children()) for level in net.encoder]
    assert depth == [0, 1, 2]
    same = UNet(**net.config())
    same.load_state_dict(net.state_dict())
    for other in (net, same):
        torch.nn.init.ones_(other.get_parameter("head.weight"))
    x, noise = torch.randn(2, 2, 7, 10), torch.zeros(2)
    assert torch.equal(net(x, noise), same(x, noise))
    assert net(x, noise).shape == x.shape


@pytest.mark.parametrize("blocks", [(1, 1), (1, 1, 0), (1, -1, 1)])
def test_blocks_that_fit_no_level_are_refused(blocks):
    with pytest.raises(ShapeError, match="blocks"):
        UNet(1, widths=(8, 8, 8), blocks=blocks)


def test_groups_have_sixteen_channels_where_they_can():
    for width, groups in ((256, 16), (96, 6), (32, 2), (16, 1), (8, 1), (24, 1), (40, 2), (1, 1)):
        assert groups_of(width) == groups
        assert width % groups == 0
