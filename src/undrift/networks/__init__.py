"""Raw networks: plain `torch.nn.Module`s that know nothing of paths, schedules or losses.

Every network is called as `net(x, noise)` or `net(x, noise, cond)`: x is a batch (B, *E), noise one label per sample
(B,), cond one condition per sample, and the result is a tensor like x. What cond is depends on what the network was
built with:

* `classes=K`: class indices (B,), long; K is the null label.
* `columns=(k_1, ..., k_F)`: rows (B, F), float; k = 0 is a (standardised) number, k >= 2 a class index 0..k-1.
* `image=C'`: a grid on the points of x, (B, C', *S), float.
* columns and image: both in one row, (B, F + C' * prod(S)), columns first.

NaN in a float condition is "not asked" or "not seen"; leaving cond out is the null label, or NaN throughout.

Every network has `event_shape` (None where any size will do), `classes`, `columns`, `image` where it takes one,
`noise_range`, the noise labels that it resolves (`NOISE_RANGE`: a label is about 1/4 log(sigma/alpha)), and `config()`,
the JSON-able constructor arguments, so that `NETWORKS[name](**config)` rebuilds it without running code from a file.
"""

from undrift.networks.embed import NOISE_RANGE
from undrift.networks.encoder import LinearEncoder
from undrift.networks.mlp import MLP
from undrift.networks.transformer import Transformer
from undrift.networks.unet import UNet

NETWORKS = {"LinearEncoder": LinearEncoder, "MLP": MLP, "Transformer": Transformer, "UNet": UNet}
"""Every network that a run on disk may name."""

__all__ = ["MLP", "NETWORKS", "NOISE_RANGE", "LinearEncoder", "Transformer", "UNet"]
