"""A model: a codec, a trained denoiser, what may be asked of it, and the recipe that made it.

model = undrift.fit("flowers/", minutes=10)
model.sample(16, where={"class": "rose"}, scale=2.0)
model.save("runs/flowers"); model = undrift.load("runs/flowers")
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from undrift import gaussian, grids, simulate
from undrift.codecs.conditions import Conditions
from undrift.core import PerSample, out_of_memory, write
from undrift.errors import CheckpointError, DataError, LabelError
from undrift.guidance import cfg
from undrift.protocols import Sampler
from undrift.recipes import Recipe
from undrift.training.progress import steps as bar

__all__ = ["Model", "Stop", "load"]

AT_ONCE = 2048
"""Samples drawn in one batch."""


@dataclass(frozen=True)
class Stop:
    """A stop on the way from noise to sample.

    Attributes:
        t: time.
        noise: noise level sigma / alpha, codec units.
        records: the state as the user would see it, in units of its own spread.
    """

    t: float
    noise: float
    records: Any


@dataclass(frozen=True)
class Model:
    """What a user fits, samples and saves.

    Attributes:
        denoiser: the trained network on its path; its weights are the moving average.
        codec: the user's records <-> states.
        conditions: what may be asked for, or None.
        recipe: everything that rebuilds it.
    """

    denoiser: gaussian.NetDenoiser
    codec: Any
    conditions: Conditions | None
    recipe: Recipe

    @property
    def net(self) -> nn.Module:
        """The network."""
        return self.denoiser.modules()[0]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.parameters()).device

    def to(self, device: torch.device | str) -> "Model":
        """The same model on another device; the network itself is moved."""
        self.net.to(device)
        return self

    def sample(
        self,
        n: int,
        where: Any = None,
        *,
        scale: float = 1.0,
        steps: int = 50,
        seed: int = 0,
        sampler: Sampler | None = None,
        start: Tensor | None = None,
        like: Any = None,
        strength: float = 0.5,
        rows: Sequence[int] | None = None,
        progress: bool = False,
    ) -> Any:
        """Draw records.

        Args:
            n: how many, >= 1.
            where: what is asked for: a mapping or DataFrame from condition names to one value, or one for each sample; a name
                left out is left open. None asks for nothing.
            scale: strength of what is asked for, 1 = as trained, larger = more typical and less varied.
            steps: steps of the sampler; the default sampler makes one network call a step.
            seed: sample i of a seed is the same whatever n.
            sampler: how to step; DPM-Solver++(2M) on Karras et al.'s grid by default.
            start: states at t = 1 to start from, shape (n, *E), in place of noise of the seed; `noise` makes such.
            like: n records to start from: they are noised as far as `strength` says and sampled back.
            strength: share of the steps that `like` is noised by, in (0, 1]; 1 keeps almost nothing of it.
            rows: which of the n samples to draw, all by default; they are what they are among all n.
            progress: draw a bar.

        Returns:
            Records as they came, in the user's units.

        Raises:
            DataError: n < 1, or a start that does not fit.
            LabelError: an unknown condition or class, or one asked of a model without conditions.
            NonFiniteError: the network gave NaN.
        """
        states = self.states(
            n, where, scale=scale, steps=steps, seed=seed, sampler=sampler,
            start=start, like=like, strength=strength, rows=rows, progress=progress,
        )  # fmt: skip
        return self.decode(states, where, n, rows)

    def states(
        self,
        n: int,
        where: Any = None,
        *,
        scale: float = 1.0,
        steps: int = 50,
        seed: int = 0,
        sampler: Sampler | None = None,
        start: Tensor | None = None,
        like: Any = None,
        strength: float = 0.5,
        rows: Sequence[int] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """`sample` before decoding: states in codec units, float32, shape (n, *E)."""
        cond, grid = self._cond(n, where, scale), self.grid(steps)
        if start is not None and like is not None:
            raise DataError("give start= or like=, not both: a sample starts from one state")
        if like is not None:
            grid, start = self._noised(n, like, strength, grid, seed)
        if start is not None and start.shape != (n, *self.codec.event_shape):
            raise DataError(f"start has shape {tuple(start.shape)}; {n} samples start from {(n, *self.codec.event_shape)}")
        chosen = torch.arange(n) if rows is None else torch.as_tensor(list(rows), dtype=torch.long)
        if not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= n:
            raise DataError(f"rows={rows} must name at least one of the samples 0 to {n - 1}")

        def draw(part: Tensor) -> Tensor:
            return simulate.sample(
                self._steered(None if cond is None else cond[part].to(self.device), scale),
                sampler or gaussian.DPMSolverPP(),
                grid,
                (len(part), *self.codec.event_shape),
                seed=seed,
                device=self.device,
                prior=None if start is None else _At(start[part].to(self.device)),
                rng=partial(PerSample, seed, part.tolist()),
                progress=partial(_bar, total=grid.steps + 1, first=int(part[0]), n=n) if progress else iter,
            ).cpu()

        return torch.cat(list(_split(draw, chosen)))  # per-sample streams make the cut invisible

    def decode(self, states: Tensor, where: Any = None, n: int | None = None, rows: Sequence[int] | None = None) -> Any:
        """Records of states; what was asked for is written back as it was asked."""
        records = self.codec.decode(states)
        if where is None or self.conditions is None:
            return records
        return self.conditions.write(records, where, len(states) if n is None else n, rows)

    def noise(self, n: int, seed: int = 0) -> Tensor:
        """The states at t = 1 that samples of a seed start from, shape (n, *E)."""
        return self._prior(n, PerSample(seed, n)).cpu()

    def _prior(self, n: int, rng: PerSample) -> Tensor:
        return self.denoiser.path.prior(torch.empty(n, *self.codec.event_shape, device=self.device)).sample(rng)

    @torch.no_grad()
    def trace(
        self, n: int, where: Any = None, *, scale: float = 1.0, steps: int = 50, seed: int = 0, stops: int = 9
    ) -> list[Stop]:
        """Samples and the way they came, from noise to record.

        Args:
            n: how many.
            where: as in `sample`.
            scale: as in `sample`.
            steps: as in `sample`.
            seed: as in `sample`: the last stop holds the records that `sample` gives.
            stops: how many stops to keep, evenly spread over the steps, both ends included.
        """
        grid, rng = self.grid(steps), PerSample(seed, n)
        denoiser = self.guided(n, where, scale)
        loop = simulate.trajectory(denoiser, gaussian.DPMSolverPP(), grid, self._prior(n, rng), rng=rng)
        kept = set(torch.linspace(0, grid.steps, min(stops, grid.steps + 1)).round().int().tolist())
        return [self._stop(step.t, step.x) for step in loop if step.index in kept]

    def _stop(self, t: float, x: Tensor) -> Stop:
        clock, schedule = torch.tensor(t, dtype=torch.float64), self.denoiser.path.schedule
        alpha, sigma = float(schedule.alpha(clock)), float(schedule.sigma(clock))
        spread = max(1.0, (alpha**2 * self.denoiser.data_std**2 + sigma**2) ** 0.5 / self.denoiser.data_std) if sigma else 1.0
        return Stop(t, sigma / alpha if alpha else float("inf"), self.codec.decode(x.cpu() / spread))

    def guided(self, n: int, where: Any = None, scale: float = 1.0) -> Any:
        """The denoiser for n samples of what is asked for; see `sample`."""
        cond = self._cond(n, where, scale)
        return self._steered(None if cond is None else cond.to(self.device), scale)

    def _steered(self, cond: Tensor | None, scale: float) -> Any:
        if cond is None:
            return self.denoiser
        return self.denoiser.given(cond) if scale == 1 else cfg(self.denoiser, cond, scale)

    def _cond(self, n: int, where: Any, scale: float) -> Tensor | None:
        """One row of conditions a sample, NaN where nothing is asked; None for a model without conditions."""
        if n < 1:
            raise DataError(f"asked for {n} samples; ask for at least one")
        nothing = where is None or len(where) == 0
        if nothing and scale != 1:
            raise LabelError(f"scale={scale:g} pulls towards what is asked for, and nothing was; give where={{...}}")
        if self.conditions is None:
            if not nothing:
                raise LabelError("this model was fitted without conditions; fit it with labels, or with condition=[names]")
            return None
        return self.conditions.encode({} if nothing else where, n)

    def _noised(self, n: int, like: Any, strength: float, grid: grids.Grid, seed: int) -> tuple[grids.Grid, Tensor]:
        """The rest of the grid, and records noised to its first time."""
        if not 0 < strength <= 1:
            raise DataError(
                f"strength={strength:g} must lie in (0, 1]: it is the share of the steps that records are noised by"
            )
        x_0 = self.codec.encode(like)
        if len(x_0) != n:
            raise DataError(f"{len(x_0)} records were given to start from, and {n} samples asked for; give one for each")
        rest = grids.Grid(grid.times[grid.steps - max(1, round(strength * grid.steps)) :])
        zero, t = (torch.tensor(time, dtype=torch.float64) for time in (0.0, rest.times[0]))
        return rest, self.denoiser.path.corrupt(x_0, zero, t).sample(PerSample(seed, n))

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
        weights = {name: value.cpu().contiguous() for name, value in self.net.state_dict().items()}
        # The weights carry the digest of what made them: files of two runs are told apart, and a kill between the two writes
        # leaves a whole model, whose recipe lacks what was measured.
        write(folder / "model.safetensors", save(weights, metadata={"recipe": self.recipe.digest()}))
        write(folder / "recipe.json", self.recipe.to_json())
        return folder


@dataclass(frozen=True)
class _At:
    """The law of a state that is given."""

    x: Tensor

    def sample(self, rng: Any) -> Tensor:
        """The state."""
        return self.x


def _split(draw: Any, rows: Tensor) -> Iterator[Tensor]:
    """Draw the rows in batches; a batch that does not fit into memory is halved, and that is said."""
    size, first = AT_ONCE, 0
    while first < len(rows):
        try:
            yield draw(rows[first : first + size])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or size == 1:
                raise
            size = max(1, min(size, len(rows) - first) // 2)
            import warnings

            warnings.warn(f"out of memory: drawing {size} samples at once from here on", ResourceWarning, stacklevel=2)
        else:
            first += size


def load(folder: str | File, device: torch.device | str = "cpu") -> Model:
    """A model from a folder that `Model.save` or `fit` wrote. Nothing in the folder is executed.

    Args:
        folder: of the run.
        device: where to put the network.

    Raises:
        CheckpointError: a file is missing, damaged, not undrift's, or its weights do not fit its network.
    """
    from safetensors import SafetensorError, safe_open

    folder = File(folder)
    try:
        text = (folder / "recipe.json").read_bytes()
        recipe = Recipe.from_json(text, f"{folder}/recipe.json")
        with safe_open(folder / "model.safetensors", "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            digest = (file.metadata() or {}).get("recipe")
    except FileNotFoundError as error:
        missing = File(error.filename or "model.safetensors").name
        cure = "give the folder that save() made"
        if missing == "model.safetensors" and (folder / "recipe.json").exists():
            cure = f"its training is not finished: go on with `undrift fit {folder}/recipe.json`, or {cure}"
        raise CheckpointError(f"{folder} is no run: {missing} is missing; {cure}") from error
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}); give the folder that save() made") from error
    except SafetensorError as error:
        raise CheckpointError(f"{folder}/model.safetensors is damaged or foreign ({error}); save the model again") from error
    denoiser = recipe.build()
    net = denoiser.modules()[0]
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {folder} do not fit the network of its recipe: {error}") from error
    net.eval().requires_grad_(False)
    model = Model(denoiser, recipe.build_codec(), recipe.build_conditions(), recipe)
    if digest != recipe.digest():
        raise CheckpointError(f"recipe.json and model.safetensors in {folder} are not of one save; save the model again")
    return model.to(device)


def _bar(loop: Any, total: int, first: int, n: int) -> Any:
    return bar(loop, "sample" if n <= AT_ONCE else f"samples from {first} of {n}", total)
