r"""Linear encoder: a network that sees k directions of a vector and moves nothing else.

Where data lies on a subspace, x_0 = A z with A^T A = I, its score is, whatever the law of z,

.. math:: \nabla \log p_t(x) = \frac{1}{\sigma^2} \big[ \alpha A f_t(A^\top x) - x \big], \qquad f_t(z) = E[Z | A^\top X_t = z],

so the posterior mean of the clean end is A f_t(A^T x): everything to be learned is a basis and a function of k numbers.
The network is that formula with a basis of its own,

.. math:: \mathrm{net}(x, n, c) = V f(V^\top x, n, c), \qquad V^\top V = I_k,

the denoiser of Chen et al.'s "simplified U-Net" (encoder V^T, decoder V, skip -x): with the head "x0", the score of a
denoiser made of it is their formula. V is the orthonormal factor of a free matrix, V R = W (R upper triangular, its
diagonal positive), so it is orthonormal whatever an optimiser or a moving average does to W, and its size says nothing.

f is Lipschitz in z: a diagonal map plus an MLP of SiLUs and linear layers, modulated by the embedding e of noise and
condition, without a norm to divide by,

.. math:: f(z) = g(e) \odot z + \mathrm{MLP}(z), \qquad
    h \leftarrow \mathrm{SiLU}\big(a_i(e) \odot (M_i h + m_i) + b_i(e)\big).

Source: Chen M. et al. 2023 (2302.07194), section 3.2.
Checked by: tests/networks/test_networks.py, tests/networks/test_encoder.py
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from undrift.errors import ShapeError
from undrift.networks.embed import NOISE_RANGE, Embedding, check_batch, embedding_width, film_layer, zero_init
from undrift.typing import State

__all__ = ["LinearEncoder"]


class LinearEncoder(nn.Module):
    """A function of k orthonormal directions of a vector, written back along them.

    Args:
        features: length d of a vector.
        latent: number k of directions, 1..d.
        width: features of every hidden layer of f, even, at least 4.
        blocks: hidden layers of f.
        classes: number of classes K, or None for a network without labels. The null label is the index K.
        columns: for each column of cond 0 (a number) or its number of classes (at least 2); () for none.

    Attributes:
        event_shape: (features,).
        noise_range: noise labels that it resolves.

    Raises:
        ShapeError: latent is not within 1..features, blocks is below 1, or width is odd or below 4.
        LabelError: classes is below 1, columns has a wrong entry, or both are given.

    Source: Chen M. et al. 2023 (2302.07194), eq. 8.
    Checked by: tests/networks/test_encoder.py::test_recovers_the_subspace
    """

    noise_range = NOISE_RANGE

    def __init__(
        self,
        features: int,
        latent: int,
        width: int = 64,
        blocks: int = 2,
        classes: int | None = None,
        columns: Sequence[int] = (),
    ):
        super().__init__()
        if not 1 <= latent <= features or blocks < 1 or width < 4 or width % 2:
            raise ShapeError(
                f"LinearEncoder: features={features}, latent={latent}, width={width}, blocks={blocks}; give 1 to features "
                "directions, at least one block, and an even width of at least 4."
            )
        self.features, self.latent, self.width, self.blocks = features, latent, width, blocks
        self.classes, self.columns = classes, tuple(columns)
        self.event_shape: tuple[int | None, ...] = (features,)
        size = embedding_width(width)
        self.embedding = Embedding(size, classes, columns)
        self.free = nn.Parameter(nn.init.orthogonal_(torch.empty(features, latent)))
        self.gate = zero_init(nn.Linear(size, latent))
        self.film = film_layer(size, blocks, width)
        self.layers = nn.ModuleList(nn.Linear(width if i else latent, width) for i in range(blocks))
        self.head = zero_init(nn.Linear(width, latent))

    def config(self) -> dict:
        """JSON-able constructor arguments: `LinearEncoder(**net.config())` has the same architecture."""
        return {
            "features": self.features,
            "latent": self.latent,
            "width": self.width,
            "blocks": self.blocks,
            "classes": self.classes,
            "columns": list(self.columns),
        }

    def basis(self) -> Float[Tensor, "d k"]:
        """The directions V as columns, orthonormal within rounding, shape (features, latent).

        Factored in float32 or better: half precision has no factorisation, and would not be orthonormal.

        Checked by: tests/networks/test_encoder.py::test_basis_is_orthonormal_after_any_step
        """
        exact = torch.promote_types(self.free.dtype, torch.float32)
        directions, triangle = torch.linalg.qr(self.free.to(exact))
        signs = torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(exact)  # else V could jump to -V within a step
        return (directions * signs).to(self.free.dtype)

    def forward(self, x: Tensor, noise: Tensor, cond: Tensor | None = None) -> State:
        """Evaluate the network.

        Args:
            x: batch, shape (B, features), scaled to about unit variance.
            noise: noise label, shape (B,), dimensionless, about 1/4 log(sigma/alpha).
            cond: class indices, shape (B,), long, 0..K, or rows of columns, shape (B, F), float, NaN where not asked;
                None is the null label K, or NaN, in every row.

        Returns:
            Shape and dtype of x, in the span of `basis`.

        Raises:
            ShapeError: x, noise or cond has another shape than these.
            LabelError: cond was given to a network without any, or a value lies outside its range.

        Checked by: tests/networks/test_encoder.py::test_output_is_the_formula
        """
        check_batch(x, noise, "LinearEncoder", self.event_shape)
        embedding, basis = self.embedding(noise, cond), self.basis()
        z = x.to(basis.dtype) @ basis
        film, h = self.film(embedding).chunk(2 * self.blocks, dim=1), z
        for layer, scale, shift in zip(self.layers, film[::2], film[1::2], strict=True):
            h = functional.silu(layer(h) * scale + shift)
        return ((self.gate(embedding) * z + self.head(h)) @ basis.T).to(x.dtype)
