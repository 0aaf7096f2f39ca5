"""The MLP against its formula written out, and against itself with its features recomputed."""

import pytest
import torch

from undrift.networks import MLP


def perturbed(**kw):
    """A float64 MLP in which no layer is silent."""
    torch.manual_seed(0)
    net = MLP(5, width=16, blocks=3, **kw).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.2)
    return net


def plain(net, x, noise, cond):
    """The module's formula, one operation at a time: nothing fused, chunked or shared."""
    weights = dict(net.named_parameters())

    def linear(name, h, rows=slice(None)):
        return h @ weights[f"{name}.weight"][rows].T + weights[f"{name}.bias"][rows]

    def norm(name, h):
        centred = h - h.mean(1, keepdim=True)
        return (
            centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]
            + weights[f"{name}.bias"]
        )

    def silu(h):
        return h / (1 + (-h).exp())

    e, w = net.embedding(noise, cond), net.width
    h = linear("stem", x)
    for i in range(net.blocks):
        scale, shift = (linear("film", e, slice(w * (2 * i + part), w * (2 * i + part + 1))) for part in (0, 1))
        branch = linear(f"layers.{i}.first", silu(norm(f"layers.{i}.norm", h)))
        h = h + linear(f"layers.{i}.second", silu(scale * branch + shift))
    return linear("head", silu(norm("norm", h)))


def gradients(net, out):
    return torch.autograd.grad(out.square().sum(), list(net.parameters()))


@pytest.mark.parametrize("kw", [{}, {"classes": 3}, {"columns": (0, 3)}], ids=["bare", "classes", "columns"])
def test_forward_and_gradients_are_the_formula(kw):
    net = perturbed(**kw)
    x, noise = torch.randn(7, 5, dtype=torch.float64), torch.linspace(-2, 2, 7, dtype=torch.float64)
    cond = None
    if "classes" in kw:
        cond = torch.arange(7) % 4
    elif kw:
        cond = torch.tensor([[0.5, 1.0], [torch.nan, 2.0], [1.0, torch.nan]], dtype=torch.float64).repeat(3, 1)[:7]
    fast, slow = net(x, noise, cond), plain(net, x, noise, cond)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    for name, a, b in zip(dict(net.named_parameters()), gradients(net, fast), gradients(net, slow), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


def test_modulation_starts_about_one():
    # FiLM's a is 1 and its b 0 where the embedding is zero: the biases say so, block by block.
    torch.manual_seed(0)
    net = MLP(5, width=400, blocks=2)
    bias = net.film.bias.detach().view(2, 2, 400)
    bound = net.film.in_features**-0.5  # torch's own uniform start
    assert ((bias[:, 0] - 1).abs() <= bound).all()
    assert (bias[:, 1].abs() <= bound).all()


@pytest.mark.parametrize(("width", "length"), [(4, 4), (16, 16), (64, 64), (256, 64), (258, 64), (1024, 256), (514, 128)])
def test_the_embedding_is_a_quarter_as_long(width, length):
    net = MLP(3, width=width, blocks=1)
    assert net.film.in_features == length
    assert net(torch.zeros(2, 3), torch.zeros(2)).shape == (2, 3)


def test_recomputed_features_give_the_same_gradients():
    # With dropout: the second pass must drop what the first one dropped.
    net = perturbed(dropout=0.5).train()
    x, noise = torch.randn(7, 5, dtype=torch.float64), torch.linspace(-2, 2, 7, dtype=torch.float64)
    results = []
    for net.checkpoint in (False, True):
        torch.manual_seed(1)
        x.requires_grad_().grad = None
        out = net(x, noise)
        results.append((out, *gradients(net, out)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_recomputing_keeps_less():
    # What autograd holds for the backward pass, counted as it is saved: a block's own features are not among it.
    def held(checkpoint):
        net, kept = perturbed(), []
        net.checkpoint = checkpoint
        x, noise = torch.randn(64, 5, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            net(x, noise)
        return sum(kept)

    assert held(True) < 0.6 * held(False)


def test_derivatives_of_every_mode_agree():
    net = perturbed(columns=(0,)).eval()
    x, v = torch.randn(2, 3, 5, dtype=torch.float64)
    noise, cond = torch.zeros(3, dtype=torch.float64), torch.tensor([[0.3], [torch.nan], [1.0]], dtype=torch.float64)
    forward = torch.func.jvp(lambda u: net(u, noise, cond), (x,), (v,))[1]
    jacobians = torch.func.vmap(torch.func.jacrev(lambda u, n: net(u[None], n[None])[0]))(x[1:2], noise[1:2])
    reverse = torch.autograd.functional.jvp(lambda u: net(u, noise, cond), x, v)[1]  # two reverse passes
    torch.testing.assert_close(forward, reverse, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(forward[1], jacobians[0] @ v[1], rtol=1e-9, atol=1e-9)
