"""The contestants' networks: about 6.5 million parameters, 32x32 RGB, as each library's own classes and defaults make them.

Every builder returns a module `net(x, noise)`, x (B, 3, 32, 32) float32, noise (B,) = log(sigma)/4. Only widths and depths
were chosen, so that parameters and forward FLOPs agree within 5 % between contestants; the rest is each library's default.
"""

import sys
import types

from torch import Tensor, nn


class Positional(nn.Module):
    """A network that was made for time steps 0..1000: the noise label's range is mapped to it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """The network's answer, shape of x."""
        return self.net(x, 400 * (noise + 1.25))


def diffusers() -> nn.Module:
    from diffusers import UNet2DModel

    class Sample(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = UNet2DModel(
                sample_size=32,
                block_out_channels=(64, 128, 128),
                layers_per_block=2,
                down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            )

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return self.net(x, time, return_dict=False)[0]

    return Positional(Sample())


def azula() -> nn.Module:
    from azula.nn.layers import SineEncoding
    from azula.nn.unet import UNet

    class Modulated(nn.Module):
        def __init__(self, features: int = 144):
            super().__init__()
            self.embed = nn.Sequential(SineEncoding(64), nn.Linear(64, features), nn.SiLU(), nn.Linear(features, features))
            self.net = UNet(3, 3, hid_channels=(96, 128, 192), hid_blocks=(2, 2, 2), mod_features=features)

        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return self.net(x, self.embed(noise))

    return Modulated()


def lucidrains() -> nn.Module:
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
        sys.modules.setdefault(name, types.ModuleType(name))  # its data loader asks for it, its network does not
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]
    from denoising_diffusion_pytorch import Unet

    return Positional(Unet(72, dim_mults=(1, 2, 2), channels=3))


def undrift() -> nn.Module:
    from undrift.networks import UNet

    return UNet(3, widths=(96, 256, 192), blocks=1, attention=(2,))


NETWORKS = {"undrift": undrift, "diffusers": diffusers, "azula": azula, "lucidrains": lucidrains}
