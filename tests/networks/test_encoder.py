"""The linear encoder: its formula, its basis, and whether it finds the subspace that data lies on."""

import pytest
import torch

from undrift import gaussian, schedules
from undrift.errors import ShapeError
from undrift.gaussian.denoiser import score
from undrift.networks import LinearEncoder


def perturbed(d=7, k=3, **kw):
    """A float64 encoder in which no layer is silent."""
    torch.manual_seed(0)
    net = LinearEncoder(d, k, width=16, **kw).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return net


def latent(net, z, noise):
    """The f of the module's formula, one operation at a time."""
    e, w = net.embedding(noise), net.width
    h = z
    for i, layer in enumerate(net.layers):
        scale, shift = (
            e @ net.film.weight[w * j : w * (j + 1)].T + net.film.bias[w * j : w * (j + 1)] for j in (2 * i, 2 * i + 1)
        )
        h = (h @ layer.weight.T + layer.bias) * scale + shift
        h = h * torch.sigmoid(h)
    return net.gate(e) * z + net.head(h)


def test_output_is_the_formula():
    net = perturbed()
    x, noise = torch.randn(4, 7, dtype=torch.float64), torch.linspace(-2, 2, 4, dtype=torch.float64)
    basis = net.basis()
    torch.testing.assert_close(net(x, noise), latent(net, x @ basis, noise) @ basis.T, rtol=1e-12, atol=1e-12)
    # What lies across the basis is neither seen nor written.
    across = torch.randn(4, 7, dtype=torch.float64)
    across = across - across @ basis @ basis.T
    torch.testing.assert_close(net(x + across, noise), net(x, noise), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((net(x, noise) * across).sum(1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-10)


def test_score_of_the_x0_head_is_the_simplified_unet():
    # s(x, t) = (alpha V f(V^T x, t) - x) / sigma^2; with sigma^2 = h and the state over alpha, the paper's (V f - x) / h.
    net = perturbed()
    denoiser = gaussian.NetDenoiser(net, gaussian.Path(schedules.Cosine()), head="x0")
    x, t = torch.randn(4, 7, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64)
    schedule = denoiser.path.schedule
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    label = 0.25 * (sigma / alpha).log()[:, 0]  # far from the label's floor
    z = x @ net.basis() / (alpha.square() + sigma.square()).sqrt()
    expected = (alpha * latent(net, z, label) @ net.basis().T - x) / sigma.square()
    torch.testing.assert_close(score(denoiser, x, t), expected, rtol=1e-5, atol=1e-5)  # the label's floor: (1e-4 / 0.08)^2


@pytest.mark.parametrize("k", [1, 3, 7])
def test_basis_is_orthonormal_after_any_step(k):
    torch.manual_seed(0)
    net = LinearEncoder(7, k, width=16)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.3, weight_decay=0.1)
    x, average = torch.randn(16, 7), [p.detach().clone() for p in net.parameters()]
    for _ in range(20):
        optimizer.zero_grad()
        (net(x, torch.zeros(16)) - x.flip(1)).square().mean().backward()
        optimizer.step()
        for mean, p in zip(average, net.parameters(), strict=True):
            mean.lerp_(p.detach(), 0.1)
    moved = net.basis().detach()
    assert (moved.T @ moved - torch.eye(k)).abs().max() < 1e-5  # float32 rounding over seven products
    again = LinearEncoder(**net.config())
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.basis(), moved)
    with torch.no_grad():
        for mean, p in zip(average, net.parameters(), strict=True):
            p.copy_(mean)
    assert (net.basis().T @ net.basis() - torch.eye(k)).abs().max() < 1e-5


def test_basis_says_nothing_of_the_size_and_does_not_jump():
    net = perturbed()
    before = net.basis().detach()
    with torch.no_grad():
        net.free *= 1e-3
    torch.testing.assert_close(net.basis(), before, rtol=1e-9, atol=1e-9)
    # The first direction is the free matrix's first column, not its mirror image; a small step is a small turn.
    torch.testing.assert_close(before[:, 0], net.free[:, 0] / net.free[:, 0].norm(), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        net.free += 1e-9 * torch.randn_like(net.free)
    assert (net.basis() - before).abs().max() < 1e-4


@torch.no_grad()
def test_f_is_lipschitz():
    # SiLU's slope stays below 1.1; each layer adds its spectral norm times the largest scale.
    net = perturbed().eval()
    noise = torch.zeros(1, dtype=torch.float64)
    e = net.embedding(noise)
    film = net.film(e)[0].view(net.blocks, 2, net.width)
    bound = 1.0
    for i, layer in enumerate(net.layers):
        bound *= 1.1 * float(film[i, 0].abs().max()) * float(torch.linalg.matrix_norm(layer.weight, 2))
    bound = bound * float(torch.linalg.matrix_norm(net.head.weight, 2)) + float(net.gate(e).abs().max())
    rng = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1.0, 1e3):  # a network with a norm inside has no bound near its centre
        x = scale * torch.randn(1000, 2, 7, generator=rng, dtype=torch.float64)
        a, b = (net(part, noise.expand(1000)) for part in x.unbind(1))
        assert ((a - b).norm(dim=1) <= bound * (x[:, 0] - x[:, 1]).norm(dim=1)).all()


def learned(x, k, steps=400):
    """The basis after Adam on denoising x at sigma from 0.13 to 2.7."""
    net = LinearEncoder(x.shape[1], k, width=32, blocks=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        clean = x[torch.randint(len(x), (256,))]
        sigma = torch.exp(3 * torch.rand(256, 1) - 2)
        out = net((clean + sigma * torch.randn_like(clean)) * (1 + sigma.square()).rsqrt(), sigma[:, 0].log() / 4)
        loss = (out - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.basis().detach()


def test_recovers_the_subspace():
    # x = A z + noise in 32 dimensions, z in 4. PCA is the maximum-likelihood answer and the yardstick: its error falls like
    # d / n. The encoder's stays within 1.5 of it (measured 1.0 to 1.25), and falls as it does; a random subspace errs by 7.
    d, k, errors = 32, 4, []
    for n in (250, 4000):
        torch.manual_seed(0)
        truth = torch.linalg.qr(torch.randn(d, k)).Q
        x = torch.randn(n, k) @ truth.T + 0.5 * torch.randn(n, d)
        pca = torch.linalg.svd(x, full_matrices=False).Vh[:k].T
        ours, theirs = ((v @ v.T - truth @ truth.T).square().sum() for v in (learned(x, k), pca))
        assert ours < 1.5 * theirs, n
        errors.append(float(ours) * n / d)
    assert max(errors) < 1.5 * min(errors)
    assert max(errors) < 4  # measured 2.6; PCA's own is about 2 (d - k) k s^2 (1 + s^2) / d = 2.2 at s = 0.5


ERRORS = {
    "latent": (lambda: LinearEncoder(4, 5), "1 to features directions"),
    "no-latent": (lambda: LinearEncoder(4, 0), "1 to features directions"),
    "width": (lambda: LinearEncoder(4, 2, width=7), "an even width"),
    "blocks": (lambda: LinearEncoder(4, 2, blocks=0), "at least one block"),
    "x": (lambda: LinearEncoder(4, 2)(torch.zeros(2, 3), torch.zeros(2)), r"\(B, 4\)"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_the_cure(name):
    call, text = ERRORS[name]
    with pytest.raises(ShapeError, match=text):
        call()
