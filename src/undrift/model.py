"""A model: a codec, a trained denoiser, what may be asked of it, and the recipe that made it.

model = undrift.fit("flowers/", minutes=10)
model.sample(16, where={"class": "rose"}, scale=2.0)
model.save("runs/flowers"); model = undrift.load("runs/flowers")
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from undrift import gaussian, grids, simulate
from undrift.codecs.conditions import Conditions
from undrift.core import PerSample, out_of_memory, write
from undrift.errors import CheckpointError, DataError, GridError, LabelError
from undrift.guidance import cfg
from undrift.protocols import Sampler
from undrift.recipes import Recipe
from undrift.routes import Routes
from undrift.training.progress import steps as bar

__all__ = ["Model", "Stop", "load"]

AT_ONCE = 2048
"""Samples drawn in one batch."""


TRACKED = 2**17
"""Numbers of records whose likelihoods are found in one batch: each keeps the graph of a network call."""

TRACED, PROBES = 64, 8
"""Numbers a record up to which a likelihood takes the exact trace, and the probes that it takes beyond."""


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
        tuned: routes that `tune` found, by network calls and scale; saved with the model.
    """

    denoiser: gaussian.NetDenoiser
    codec: Any
    conditions: Conditions | None
    recipe: Recipe
    tuned: Routes = field(default_factory=Routes)

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
        steps: int | str = 50,
        tolerance: float | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        compile: bool = False,
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
            steps: network calls for each sample, or steps of the sampler that is given; "auto" for as few as it takes.
            tolerance: with steps="auto", the discretisation error to stay below in the median, codec units; see `tune`.
            seed: sample i of a seed is the same whatever n.
            sampler: how to step, on Karras et al.'s grid; by default the route that `tune` found for as many calls, or
                `gaussian.default`.
            compile: compile the network first (`torch.compile`): worth its half minute for many samples.
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
            GridError: a tolerance that no number of calls is known to meet.
            NonFiniteError: the network gave NaN.
        """
        states = self.states(
            n, where, scale=scale, steps=steps, tolerance=tolerance, seed=seed, sampler=sampler, compile=compile,
            start=start, like=like, strength=strength, rows=rows, progress=progress,
        )  # fmt: skip
        return self.decode(states, where, n, rows)

    def states(
        self,
        n: int,
        where: Any = None,
        *,
        scale: float = 1.0,
        steps: int | str = 50,
        tolerance: float | None = None,
        seed: int = 0,
        sampler: Sampler | None = None,
        compile: bool = False,
        start: Tensor | None = None,
        like: Any = None,
        strength: float = 0.5,
        rows: Sequence[int] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """`sample` before decoding: states in codec units, float32, shape (n, *E)."""
        cond, route = self._cond(n, where, scale), self.route(steps, scale=scale, sampler=sampler, tolerance=tolerance)
        if start is not None and like is not None:
            raise DataError("give start= or like=, not both: a sample starts from one state")
        if like is not None:
            route, start = self._noised(n, like, strength, route, seed)
        if start is not None and start.shape != (n, *self.codec.event_shape):
            raise DataError(f"start has shape {tuple(start.shape)}; {n} samples start from {(n, *self.codec.event_shape)}")
        chosen = torch.arange(n) if rows is None else torch.as_tensor(list(rows), dtype=torch.long)
        if not len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= n:
            raise DataError(f"rows={rows} must name at least one of the samples 0 to {n - 1}")

        model = self._compiled if compile else self

        def draw(part: Tensor) -> Tensor:
            return simulate.sample(
                model._steered(None if cond is None else cond[part].to(self.device), scale),
                route.sampler,
                route.grid,
                (len(part), *self.codec.event_shape),
                seed=seed,
                device=self.device,
                prior=None if start is None else _At(start[part].to(self.device)),
                rng=partial(PerSample, seed, part.tolist()),
                progress=partial(_bar, total=route.grid.steps + 1, first=int(part[0]), n=n) if progress else iter,
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

    def log_likelihood(
        self,
        records: Any,
        where: Any = None,
        *,
        steps: int = 48,
        probes: int | None = None,
        seed: int = 0,
        sigma_min: float = 0.002,
    ) -> gaussian.Likelihood:
        """Log density of records under the model, in the user's units (see `gaussian.log_likelihood`).

        A density may be above 1, and depends on the units: for records in other units, x -> c x, it is lower by d log c. For
        records that are whole numbers it says how sharply the model knows them; for images ask `bits_per_dim`.

        Args:
            records: N records, as the model was fitted on.
            where: what they are given, as in `sample`.
            steps: of the Runge-Kutta method, even: 6 network calls each.
            probes: of Hutchinson's estimate of the trace; by default the exact trace up to 64 numbers a record, else 8 probes.
            seed: of the probes.
            sigma_min: noise that records are blurred by, in standard deviations of an array, in half ranges of images.

        Returns:
            Nats per record with their errors, each shape (N,), on the CPU.

        Raises:
            DataError: the records have no density: columns with levels or empty cells, constants, tables.
            NonFiniteError: the network gave NaN.

        Checked by: tests/test_model.py::test_log_likelihoods_are_in_the_users_units
        """
        jacobian = getattr(self.codec, "log_jacobian", None)
        if jacobian is None:
            raise DataError(f"records of {type(self.codec).__name__} have no density: their encoding is no affine map")
        nats = jacobian()  # which says why records of other kinds have no density, before any work
        return self._likelihood(records, where, None, steps, probes, seed, sigma_min).shifted(nats)

    def bits_per_dim(
        self, records: Any, where: Any = None, *, steps: int = 48, probes: int | None = None, seed: int = 0
    ) -> gaussian.Bits:
        """Bits per pixel and channel of quantised images: an upper bound, by dequantisation (see `gaussian.bits_per_dim`).

        The model's density is blurred by noise of the variance of a level's cell, which suits it best where the model knows the
        level; any blur gives a code, and so a bound.

        Args:
            records: N images, as the model was fitted on.
            where: as in `sample`.
            steps: as in `log_likelihood`.
            probes: as in `log_likelihood`.
            seed: of the dequantisation and the probes; one draw a pixel.

        Returns:
            Bits per dimension with their errors, each shape (N,), on the CPU. Compare means over images.

        Raises:
            DataError: the records are not quantised images.

        Checked by: tests/test_model.py::test_bits_of_images_known_for_certain
        """
        levels = getattr(self.codec, "levels", None)
        if levels is None:
            raise DataError(
                "bits per dimension count the levels of quantised images (whole numbers), and these records have none; ask for "
                "log_likelihood, which is a density"
            )
        within = (levels - 1) / 2  # states run from -1 to 1
        found = self._likelihood(records, where, within, steps, probes, seed, 1 / (within * 12**0.5))
        return found.bits(math.prod(self.codec.event_shape), within)

    def _likelihood(
        self, records: Any, where: Any, levels: float | None, steps: int, probes: int | None, seed: int, sigma_min: float
    ) -> gaussian.Likelihood:
        """In codec units; with `levels`, of dequantised states."""
        x_0 = self.codec.encode(records)
        cond, d = self._cond(len(x_0), where, 1.0), x_0[0].numel()
        probes = probes or (None if d <= TRACED else PROBES)

        def measure(part: Tensor) -> gaussian.Likelihood:
            rng, x = PerSample(seed, part.tolist()), x_0[part].to(self.device)
            found = gaussian.log_likelihood(
                self._steered(None if cond is None else cond[part].to(self.device), 1.0),
                x if levels is None else gaussian.dequantised(x, levels, rng),
                steps=steps,
                probes=probes,
                rng=rng,
                sigma_min=sigma_min,
            )
            value, rough, error = (v.cpu() for v in (found.value, found.discretisation, found.standard_error))
            return gaussian.Likelihood(value, rough, error, found.calls, found.products)

        return gaussian.Likelihood.joined(list(_split(measure, torch.arange(len(x_0)), max(1, TRACKED // d))))

    def encode(self, records: Any, where: Any = None, *, steps: int = 32) -> Tensor:
        """The noise that the model turns into these records: `sample(n, where, start=noise)` gives them back.

        Args:
            records: N records, as the model was fitted on.
            where: what they are given, as in `sample`.
            steps: of the Runge-Kutta method, 4 network calls each.

        Returns:
            States at t = 1, float32, shape (N, *E), on the CPU; those of records that the model holds likely look like `noise`.

        Checked by: tests/test_model.py::test_records_become_noise_and_come_back
        """
        x_0 = self.codec.encode(records)
        cond, grid = self._cond(len(x_0), where, 1.0), gaussian.flow_grid(self.denoiser.path, steps)

        def up(part: Tensor) -> Tensor:
            denoiser = self._steered(None if cond is None else cond[part].to(self.device), 1.0)
            return gaussian.encode(denoiser, x_0[part].to(self.device), grid=grid).cpu()

        return torch.cat(list(_split(up, torch.arange(len(x_0)))))

    def interpolate(self, a: Any, b: Any, n: int = 8, where: Any = None, *, steps: int = 32) -> Any:
        """Records between records: noise is walked along a great circle and turned into records (see `gaussian.interpolate`).

        Args:
            a: N records, as the model was fitted on; one is a table or an array of length 1.
            b: N records.
            n: how many for each pair, >= 2, its ends among them.
            where: what both ends are given, as in `sample`.
            steps: of the Runge-Kutta method, 4 network calls each; n + 2 times.

        Returns:
            N * n records, the n of the first pair first.

        Raises:
            DataError: a and b are not equally many.

        Checked by: tests/test_model.py::test_records_between_records
        """
        x_a, x_b = (self.codec.encode(records) for records in (a, b))
        if len(x_a) != len(x_b):
            raise DataError(f"{len(x_a)} records were given to walk from, and {len(x_b)} to walk to; give as many")
        denoiser, grid = self.guided(len(x_a), where), gaussian.flow_grid(self.denoiser.path, steps)
        walk = gaussian.interpolate(denoiser, x_a.to(self.device), x_b.to(self.device), n, grid=grid).cpu()
        return self.decode(walk.flatten(0, 1), where, len(x_a), [i for i in range(len(x_a)) for _ in range(n)])

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
        route, rng = self.route(steps, scale=scale), PerSample(seed, n)
        last = route.grid.steps
        loop = simulate.trajectory(self.guided(n, where, scale), route.sampler, route.grid, self._prior(n, rng), rng=rng)
        kept = set(torch.linspace(0, last, min(stops, last + 1)).round().int().tolist())
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

    def _noised(self, n: int, like: Any, strength: float, route: gaussian.Route, seed: int) -> tuple[gaussian.Route, Tensor]:
        """The rest of the route, and records noised to its first time."""
        if not 0 < strength <= 1:
            raise DataError(
                f"strength={strength:g} must lie in (0, 1]: it is the share of the steps that records are noised by"
            )
        x_0 = self.codec.encode(like)
        if len(x_0) != n:
            raise DataError(f"{len(x_0)} records were given to start from, and {n} samples asked for; give one for each")
        if isinstance(route.sampler, gaussian.Fitted):  # its weights are those of the whole way
            route = gaussian.default(self.denoiser.path, route.calls)
        last = route.grid.steps
        rest = grids.Grid(route.grid.times[last - max(1, round(strength * last)) :])
        zero, t = (torch.tensor(time, dtype=torch.float64) for time in (0.0, rest.times[0]))
        return replace(route, grid=rest), self.denoiser.path.corrupt(x_0, zero, t).sample(PerSample(seed, n))

    def route(
        self, steps: int | str = 50, *, scale: float = 1.0, sampler: Sampler | None = None, tolerance: float | None = None
    ) -> gaussian.Route:
        """The sampler and the grid that samples are drawn with; arguments as in `sample`."""
        if (steps == "auto") != (tolerance is not None):
            raise GridError('steps="auto" and tolerance= go together: a number of calls has an error, a tolerance has calls')
        if steps == "auto":
            steps = self.tuned.fewest(tolerance or 0.0, float(scale))
        if not isinstance(steps, int):
            raise GridError(f'steps is a number of network calls, or "auto" with a tolerance, got {steps!r}')
        if sampler is not None:
            return gaussian.Route(sampler, grids.karras(self.denoiser.path.schedule, steps))
        return self.tuned.get((steps, float(scale))) or gaussian.default(self.denoiser.path, steps)

    def tune(
        self,
        calls: int = 8,
        where: Any = None,
        *,
        n: int | None = None,
        scale: float = 1.0,
        seed: int = 1,
        progress: bool = False,
    ) -> gaussian.Tuned:
        """Find the best route of a number of calls for this model, and keep it: `sample(steps=calls)` uses it from now on.

        Solver, clock, grid and weights are chosen by measured error against a fine solution; see `gaussian.tune`. What was
        measured serves `sample(steps="auto", tolerance=...)`.

        Args:
            calls: network calls for each sample.
            where: what is asked for, as in `sample`; the route then serves any question at this scale.
            n: starts to tune on; by default some ten thousand numbers in all, 32 to 256 starts.
            scale: as in `sample`: a route serves one scale.
            seed: of the starts.
            progress: draw a bar.

        Returns:
            The route, its error and the default's at this and other numbers of calls, codec units; print it.

        Checked by: tests/test_model.py::test_tuned_samples_are_closer_to_the_fine_solution
        """
        if n is None:
            n = min(256, max(32, 10_000 // math.prod(self.codec.event_shape)))
        found = gaussian.tune(
            self.guided(n, where, scale), self.noise(n, seed).to(self.device), calls,
            progress=bar if progress else lambda items, title, total: items,
        )  # fmt: skip
        self.tuned[calls, float(scale)] = found
        return found

    def trust(self, n: int, where: Any = None, *, scale: float = 1.0, steps: int = 50, seed: int = 0) -> Tensor:
        """How far samples are from exact solutions of the model's flow, by step doubling: from those of twice the calls.

        It is the error of the solver alone; whether the model is right is for `undrift.evaluate`.

        Args:
            n: how many samples.
            where: as in `sample`.
            scale: as in `sample`.
            steps: as in `sample`.
            seed: as in `sample`.

        Returns:
            Root mean square over the numbers of each sample, codec units, shape (n,), on the CPU.

        Checked by: tests/test_model.py::test_trust_is_the_distance_to_twice_the_calls
        """
        cond, route, noise = self._cond(n, where, scale), self.route(steps, scale=scale), self.noise(n, seed)

        def measure(part: Tensor) -> Tensor:
            denoiser = self._steered(None if cond is None else cond[part].to(self.device), scale)
            return gaussian.discretisation(denoiser, route, noise[part].to(self.device)).cpu()

        return torch.cat(list(_split(measure, torch.arange(n))))

    @cached_property
    def _compiled(self) -> "Model":
        """With the network compiled; on an accelerator its launches are captured once and replayed."""
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        return replace(self, denoiser=replace(self.denoiser, net=torch.compile(self.net, mode=mode)))

    def save(self, folder: str | File) -> File:
        """Write recipe.json, model.safetensors and what was tuned to a folder, each to a temporary name first.

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
        self.tuned.save(folder, self.recipe.digest())
        return folder


@dataclass(frozen=True)
class _At:
    """The law of a state that is given."""

    x: Tensor

    def sample(self, rng: Any) -> Tensor:
        """The state."""
        return self.x


def _split(draw: Any, rows: Tensor, most: int | None = None) -> Iterator[Any]:
    """Draw the rows in batches; a batch that does not fit into memory is halved, and that is said."""
    size, first = min(AT_ONCE, most or AT_ONCE), 0
    while first < len(rows):
        try:
            yield draw(rows[first : first + size])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or size == 1:
                raise
            size = max(1, min(size, len(rows) - first) // 2)
            import warnings

            warnings.warn(f"out of memory: {size} samples at once from here on", ResourceWarning, stacklevel=2)
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
    model.tuned.update(Routes.load(folder, recipe.digest()))
    return model.to(device)


def _bar(loop: Any, total: int, first: int, n: int) -> Any:
    return bar(loop, "sample" if n <= AT_ONCE else f"samples from {first} of {n}", total)
