"""The facade: data in, a model that samples in the user's units, saved and loaded as plain files.

model = undrift.fit(images, labels, seconds=60)
model.sample(16, where={"class": 3}, scale=2.0)
model.save("runs/digits"); model = undrift.load("runs/digits")
"""

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path as File
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from undrift import gaussian, grids, schedules, simulate
from undrift.codecs import Images, Labels
from undrift.core import PerSample, write
from undrift.errors import CheckpointError, DataError, LabelError
from undrift.guidance import cfg
from undrift.networks import UNet
from undrift.protocols import Sampler
from undrift.recipes import Recipe
from undrift.training import Ema, Settings, forked, train
from undrift.training.progress import show, steps

__all__ = ["Model", "fit", "load"]

AT_ONCE = 2048
"""Samples drawn in one batch."""

NetT = TypeVar("NetT", bound=nn.Module)


@dataclass(frozen=True)
class Model:
    """A codec, a trained denoiser, and what was measured while training it.

    Attributes:
        denoiser: the trained network on its path; weights are the moving average.
        codec: the user's images <-> states.
        labels: class names, or None for a model without labels.
        recipe: everything that rebuilds it.
    """

    denoiser: gaussian.NetDenoiser
    codec: Images
    labels: Labels | None
    recipe: Recipe

    def sample(
        self,
        n: int,
        where: Mapping[str, Any] | None = None,
        *,
        scale: float = 1.0,
        steps: int = 50,
        seed: int = 0,
        sampler: Sampler | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Draw images.

        Args:
            n: how many, >= 1.
            where: {"class": name} for all of them, or {"class": [one name for each]}; None asks for no class.
            scale: strength of the label, 1 = as trained, larger = more typical and less varied.
            steps: steps of the sampler; the default sampler makes one network call a step.
            seed: sample i of a seed is the same whatever n.
            sampler: how to step; DPM-Solver++(2M) on Karras et al.'s grid by default.
            progress: draw a bar.

        Returns:
            Images as they came: shape (n, *codec.shape), in the user's units.

        Raises:
            DataError: n < 1.
            LabelError: an unknown class or condition, or a class asked of a model without labels.
            NonFiniteError: the network gave NaN.
        """
        return self.codec.decode(self.states(n, where, scale=scale, steps=steps, seed=seed, sampler=sampler, progress=progress))

    def states(
        self,
        n: int,
        where: Mapping[str, Any] | None = None,
        *,
        scale: float = 1.0,
        steps: int = 50,
        seed: int = 0,
        sampler: Sampler | None = None,
        progress: bool = False,
    ) -> Tensor:
        """`sample` before decoding: states in codec units, float32, shape (n, *E)."""
        if n < 1:
            raise DataError(f"asked for {n} samples; ask for at least one")
        cond = self._conditions(n, where, scale)
        parts = []
        for rows in torch.arange(n).split(AT_ONCE):  # memory is bounded; per-sample streams make the cut invisible
            states = simulate.sample(
                self._steered(None if cond is None else cond[rows], scale),
                sampler or gaussian.DPMSolverPP(),
                self.grid(steps),
                (len(rows), *self.codec.event_shape),
                seed=seed,
                rng=partial(PerSample, seed, rows.tolist()),
                progress=partial(_bar, total=steps + 1, first=int(rows[0]), n=n) if progress else iter,
            )
            parts.append(states)
        return torch.cat(parts)

    def guided(self, n: int, where: Mapping[str, Any] | None = None, scale: float = 1.0) -> Any:
        """The denoiser for n samples of the classes `where`; see `sample`."""
        return self._steered(self._conditions(n, where, scale), scale)

    def _steered(self, cond: Tensor | None, scale: float) -> Any:
        return self.denoiser if cond is None else cfg(self.denoiser, cond, scale)

    def _conditions(self, n: int, where: Mapping[str, Any] | None, scale: float) -> Tensor | None:
        """Class indices of n samples, the null index where no class is asked for; None for a model without labels."""
        if not where and scale != 1:
            raise LabelError(f"scale={scale:g} pulls towards a class, and none was asked for; give where={{'class': ...}}")
        if self.labels is None:
            if where:
                raise LabelError("this model was fitted without labels; fit it with labels to ask for a class")
            return None
        if not where:
            return self.denoiser.null(torch.zeros(n, dtype=torch.long))
        if not isinstance(where, Mapping) or set(where) != {"class"}:
            raise LabelError(f"where={where!r} is not understood; this model knows one condition: where={{'class': ...}}")
        asked = where["class"]
        asked = asked.tolist() if hasattr(asked, "tolist") else asked  # arrays of any rank, one alone too
        wanted = [asked] * n if isinstance(asked, str) or not isinstance(asked, Iterable) else list(asked)
        if len(wanted) != n:
            raise LabelError(f"{len(wanted)} classes were given for {n} samples; give one class, or one for each")
        return self.labels.encode(wanted)

    def grid(self, steps: int = 50) -> grids.Grid:
        """The default grid of the model's path."""
        return grids.karras(self.denoiser.path.schedule, steps)

    def save(self, folder: str | File) -> File:
        """Write recipe.json and model.safetensors to a folder, each to a temporary name first.

        Returns:
            The folder.
        """
        from safetensors.torch import save

        folder = File(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.contiguous() for name, value in self.denoiser.modules()[0].state_dict().items()}
        recipe = json.dumps(self.recipe.to_json(), indent=2).encode()
        # The weights carry the recipe's digest: a kill between the two writes is found out, not sampled from.
        write(folder / "model.safetensors", save(weights, metadata={"recipe": hashlib.sha256(recipe).hexdigest()}))
        write(folder / "recipe.json", recipe)
        return folder


def load(folder: str | File) -> Model:
    """A model from a folder that `Model.save` wrote. Nothing in the folder is executed.

    Raises:
        CheckpointError: a file is missing, damaged, not undrift's, or its weights do not fit its network.
    """
    from safetensors import SafetensorError, safe_open

    folder = File(folder)
    try:
        text = (folder / "recipe.json").read_bytes()
        recipe = Recipe.from_json(json.loads(text))
        with safe_open(folder / "model.safetensors", "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            digest = (file.metadata() or {}).get("recipe")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is no run: {File(error.filename or 'model.safetensors').name} is missing; give the folder save() made"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}); give the folder that save() made") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder}/recipe.json is not JSON ({error}); it was damaged: save the model again") from error
    except SafetensorError as error:
        raise CheckpointError(f"{folder}/model.safetensors is damaged or foreign ({error}); save the model again") from error
    denoiser = recipe.build()
    net = denoiser.modules()[0]
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {folder} do not fit the network of its recipe: {error}") from error
    faster(net.eval().requires_grad_(False))
    try:
        codec = Images.from_config(recipe.codec)
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{folder}/recipe.json describes no codec that this version knows: {error}") from error
    if digest != hashlib.sha256(text).hexdigest():
        raise CheckpointError(f"recipe.json and model.safetensors in {folder} are not of one save; save the model again")
    return Model(denoiser, codec, None if recipe.class_names is None else Labels(tuple(recipe.class_names)), recipe)


def fit(
    images: np.ndarray,
    labels: Iterable[Any] | None = None,
    *,
    seconds: float | None = None,
    training: Settings | None = None,
    network: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Model:
    """Learn the distribution of images.

    Args:
        images: shape (N, H, W) or (N, H, W, C); integers or floats in any range.
        labels: one class for each image (text or whole numbers), or None.
        seconds: training time; 60 by default.
        training: full settings, in place of `seconds`.
        network: arguments of `networks.UNet` that replace the defaults.
        seed: of first weights, order, times, noise and dropout.
        progress: draw a bar.

    Returns:
        A model whose samples are images like those given.

    Raises:
        DataError: images or labels that cannot be learned from; the message says which and why.
        NonFiniteError: training diverged.
    """
    images = np.asarray(images)
    codec = Images.guess(images)
    data = codec.encode(images)
    names = codes = None
    if labels is not None:
        labels = list(labels)
        if len(labels) != len(images):
            raise DataError(f"{len(labels)} labels were given for {len(images)} images; give one for each")
        names = Labels.guess(labels)
        codes = names.encode(labels)
    if training is not None and seconds is not None:
        raise DataError("give seconds=, or training= with its own budget, not both")
    settings = training or Settings(seconds=60.0 if seconds is None else seconds)
    data_std = float(data.square().mean().sqrt())  # about zero, which is what the noise is about
    schedule = schedules.EDM(sigma_max=hiding_noise(data_std, data[0].numel()))
    config = {
        **small_images(codec.event_shape),
        "classes": None if names is None else len(names.names),
        **(network or {}),
    }
    with forked(seed):
        net = faster(UNet(**config))
    ema = Ema(net)
    model = gaussian.NetDenoiser(net, gaussian.Path(schedule), "edm", data_std)
    times = gaussian.LogNormalNoise(schedule, mean=-0.3, std=1.0)
    loop = train(model, net, ema, data, codes, objective=gaussian.Regression(), times=times, settings=settings, seed=seed)
    last = deque(show(loop, "fit") if progress else loop, maxlen=1).pop()
    recipe = Recipe(
        network="UNet",
        network_config=net.config(),
        schedule="EDM",
        schedule_config=asdict(schedule),
        head="edm",
        data_std=data_std,
        codec=codec.config(),
        class_names=None if names is None else list(names.names),
        training={**asdict(settings), "done": last.step, "loss": last.loss, "rate": last.rate},
        seed=seed,
    )
    return Model(replace(model, net=ema.net), codec, names, recipe)


def hiding_noise(data_std: float, dim: int, gap: float = 0.06) -> float:
    """Noise level that hides the data: the prior is within `gap` nats of the law of X_1 (see `gaussian.Path.prior_gap`).

    At least 20. For 32 x 32 colour images it gives about the 80 of Karras et al. 2022; more would be trained for nothing.
    """
    return max(20.0, data_std * math.sqrt(dim / (2 * gap)))


def faster(net: NetT) -> NetT:
    """The same network with its kernels stored channels last, which is 5-10 % faster on a processor."""
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net


def small_images(event_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The default U-Net for images of this shape: levels down to about 4 to 7 pixels, attention on the coarsest."""
    channels, height, width = event_shape
    levels = max(1, min(height, width).bit_length() - 2)
    return {
        "channels": channels,
        "widths": [min(32 * 2**i, 128) for i in range(levels)],
        "blocks": 1,
        "attention": [levels - 1],
    }


def _bar(loop: Any, total: int, first: int, n: int) -> Any:
    return steps(loop, "sample" if n <= AT_ONCE else f"samples from {first} of {n}", total)
