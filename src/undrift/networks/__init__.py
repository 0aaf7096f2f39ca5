"""Raw networks: plain `torch.nn.Module`s that know nothing of paths, schedules or losses.

Every network is called as `net(x, noise)` or `net(x, noise, cond)`: x is a batch (B, *E), noise one label per sample
(B,), cond one class index per sample (B,), and the result is a tensor like x. Every network has `event_shape` (None
where any size will do), `classes` (their number, or None), and `config()`, the JSON-able constructor arguments, so that
`NETWORKS[name](**config)` rebuilds it without running code from a file.
"""

from undrift.networks.mlp import MLP
from undrift.networks.unet import UNet

NETWORKS = {"MLP": MLP, "UNet": UNet}
"""Every network that a run on disk may name."""

__all__ = ["MLP", "NETWORKS", "UNet"]
