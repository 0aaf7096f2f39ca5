"""The facade on real digits: fit, sample by class, save, load; and every way a run on disk can be broken."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import undrift as ud
from undrift import gaussian, schedules
from undrift.errors import CheckpointError, DataError, GridError, LabelError
from undrift.training import Settings

SMALL = {"widths": (16, 32), "blocks": 1}


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8), labels


@pytest.fixture(scope="module")
def model(digits):
    images, labels = digits
    training = Settings(steps=300, batch=64, learning_rate=3e-3)
    return ud.fit(images, labels, training=training, network=SMALL, held_out=0, progress=False)


def test_samples_come_back_in_the_users_units(model):
    samples = model.sample(6, where={"class": [0, 1, 2, 3, 4, 5]}, steps=8)
    assert samples.shape == (6, 8, 8)
    assert set(np.unique(samples)) <= set(range(17))


def test_the_noise_hides_the_data(model):
    from undrift.defaults import hiding_noise

    second_moment = 64 * model.recipe.data_std**2
    assert model.denoiser.path.prior_gap(second_moment) <= 0.06
    path = gaussian.Path(schedules.EDM(hiding_noise(0.6, 3072)))
    assert path.prior_gap(3072 * 0.36) == pytest.approx(0.06)


def test_classes_are_obeyed(model, digits):
    """Even a small network trained for seconds: nearest class mean agrees far above chance (0.1)."""
    images, labels = digits
    asked = np.repeat(np.arange(10), 20)
    samples = model.sample(200, where={"class": asked}, steps=12)
    means = np.stack([images[labels == k].mean(0) for k in range(10)])
    guess = ((samples[:, None] - means) ** 2).sum((2, 3)).argmin(1)
    assert (guess == asked).mean() > 0.6


def test_scale_pulls_towards_the_class(model, digits):
    images, labels = digits
    mean = images[labels == 3].mean(0)
    spread = [((model.sample(40, where={"class": 3}, scale=w, steps=12) - mean) ** 2).sum((1, 2)).mean() for w in (1.0, 3.0)]
    assert spread[1] < spread[0]


def test_sample_i_is_the_same_in_any_batch(model):
    many = model.states(5, where={"class": [1, 2, 3, 4, 5]}, steps=4, seed=11)
    few = model.states(2, where={"class": [1, 2]}, steps=4, seed=11)
    torch.testing.assert_close(many[:2], few, rtol=0, atol=1e-4)  # convolutions round differently by batch size


def test_many_samples_are_cut_into_batches_without_a_trace(model, monkeypatch):
    from undrift import model as facade

    where = {"class": [1, 2, 3, 4, 5]}
    whole = model.states(5, where, steps=4, seed=3, scale=1.5)
    monkeypatch.setattr(facade, "AT_ONCE", 2)
    torch.testing.assert_close(model.states(5, where, steps=4, seed=3, scale=1.5), whole, rtol=0, atol=1e-4)


def test_save_and_load_give_the_same_samples(model, tmp_path):
    again = ud.load(model.save(tmp_path / "run"))
    np.testing.assert_array_equal(again.sample(4, where={"class": 7}, steps=4), model.sample(4, where={"class": 7}, steps=4))
    assert again.recipe == ud.load(again.save(tmp_path / "twice")).recipe
    assert sorted(f.name for f in (tmp_path / "run").iterdir()) == ["model.safetensors", "recipe.json"]


def test_an_unknown_class_is_named(model):
    with pytest.raises(LabelError, match="unknown level 'seven' of 'class'; this model knows 0, 1"):
        model.sample(2, where={"class": "seven"})
    with pytest.raises(DataError, match="2 values for 3 samples; give one for all"):
        model.sample(3, where={"class": [1, 2]})
    with pytest.raises(LabelError, match="unknown condition"):
        model.sample(2, where={"colour": 3})
    with pytest.raises(DataError, match="at least one"):
        model.sample(0)


def test_a_model_without_labels_refuses_a_class(digits):
    plain = ud.fit(digits[0][:64], training=Settings(steps=3, batch=8), network=SMALL, progress=False)
    assert plain.sample(2, steps=2).shape == (2, 8, 8)
    with pytest.raises(LabelError, match="fitted without conditions"):
        plain.sample(2, where={"class": 1})


def test_labels_must_match_images(digits):
    with pytest.raises(DataError, match="3 labels were given for the 4 records"):
        ud.fit(digits[0][:4], [1, 2, 3])


def damage(name, change):
    def apply(folder):
        file = folder / name
        file.write_bytes(change(file.read_bytes()))

    return apply


def edit(**changes):
    def apply(content):
        data = json.loads(content)
        for key, value in changes.items():
            if value is None:
                del data[key]
            else:
                data[key] = value
        return json.dumps(data).encode()

    return damage("recipe.json", apply)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "recipe.json").unlink(), "recipe.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (damage("recipe.json", lambda content: content[:50]), "is not JSON"),
        (damage("recipe.json", lambda content: b"\xff\xfe\x00"), "is not JSON"),
        (damage("recipe.json", lambda content: b"[1, 2]"), "not written by undrift"),
        (damage("model.safetensors", lambda content: content[: len(content) // 2]), "damaged or foreign"),
        (damage("model.safetensors", lambda content: b"PK\x03\x04 a zip file"), "damaged or foreign"),
        (edit(undrift=99), "format 99"),
        (edit(head=None), "head is missing"),
        (edit(extra=1), "extra is unknown"),
        (edit(network={"name": "os.system", "config": {"columns": [10]}}), "names the network 'os.system'"),
        (edit(network={"name": "UNet", "config": {"channels": 1, "columns": [10], "colour": 3}}), "refuses its arguments"),
        (edit(network={"name": "UNet", "config": {"channels": 1, "columns": [10], "widths": [8]}}), "do not fit the network"),
        (edit(network={"name": "UNet", "config": {"channels": 1, "columns": [10], "dropout": 2.0}}), "refuses its arguments"),
        (edit(head="epsilon"), "unknown head"),
        (edit(codec={"name": "Images", "config": {"low": 0}}), "refuses its configuration"),
        (edit(codec={"name": "Sounds"}), "names the codec 'Sounds'"),
        (edit(seed=7), "not of one save"),
    ],
)
def test_a_broken_run_is_named(model, tmp_path, break_it, message):
    folder = model.save(tmp_path / "run")
    break_it(folder)
    with pytest.raises(CheckpointError, match=message):
        ud.load(folder)


def test_weights_and_recipe_of_two_saves_are_told_apart(model, tmp_path):
    first, second = model.save(tmp_path / "a"), tmp_path / "b"
    other = ud.Model(model.denoiser, model.codec, model.conditions, model.recipe.model_copy(update={"seed": 99}))
    other.save(second)
    (first / "recipe.json").write_bytes((second / "recipe.json").read_bytes())
    with pytest.raises(CheckpointError, match="not of one save"):
        ud.load(first)


def test_a_scale_without_a_class_is_refused(model, digits):
    with pytest.raises(LabelError, match="scale=3 pulls towards what is asked for"):
        model.sample(2, scale=3.0)
    with pytest.raises(DataError, match="not both"):
        ud.fit(digits[0][:8], minutes=1, training=Settings(steps=1))


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        ud.load(tmp_path / "file")


# ---------------------------------------------------------------- exact quantities


class Known(torch.nn.Module):
    """The clean end of N(mean, variance) as a network would say it, from its scaled input and its noise label."""

    def __init__(self, mean, variance):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.as_tensor(mean, dtype=torch.float32), requires_grad=False)
        self.variance = variance

    def forward(self, x, noise):
        ratio = torch.exp(8 * noise.double())  # `gaussian.noise_label`, inverted; data_std is 1
        noise2 = ((ratio - 1e-8) / (1 - 1e-8 * ratio)).clamp_min(0).float().reshape(-1, *[1] * (x.ndim - 1))
        x = x * (1 + noise2).sqrt()
        return self.mean + self.variance / (self.variance + noise2) * (x - self.mean)


def known(codec, recipe, mean, variance):
    """A model that knows its law, on EDM with noise up to 20."""
    return ud.Model(gaussian.NetDenoiser(Known(mean, variance), gaussian.Path(schedules.EDM(20.0)), "x0"), codec, None, recipe)


def test_log_likelihoods_are_in_the_users_units(model):
    # Centred in codec units, so the model's own law (it starts from N(0, 400), not from N(0, v + 400)) is Gaussian, too.
    scale, place, v = np.array([2.0, 0.5, 10.0]), np.array([1.0, -3.0, 100.0]), 0.8
    records = place + scale * np.random.default_rng(0).normal(size=(7, 3)) * v**0.5
    plain = [tuple(map(float, values)) for values in (place, scale, place - 9 * scale, place + 9 * scale)]
    codec = ud.codecs.Arrays((3,), None, *plain, dtype="float64")
    spread = scale * ((v + 0.002**2) * 400 / (v + 400)) ** 0.5
    want = (-0.5 * ((records - place) / spread) ** 2 - np.log(spread * (2 * np.pi) ** 0.5)).sum(1)
    exact = known(codec, model.recipe, 0.0, v)
    found = exact.log_likelihood(records)
    # float32 states: rounding of 1e-7 in a trace that counts 1 / theta times over log(20 / .002) = 9 units of the clock
    np.testing.assert_allclose(found.value.numpy(), want, atol=1e-3)
    assert float(found.standard_error.max()) == 0
    assert float(found.discretisation.max()) < 1e-3
    np.testing.assert_allclose(exact.log_likelihood(records, probes=2).value.numpy(), want, atol=1e-3)  # J is a multiple of 1
    # Other units, x -> 7 x + 3: lower by d log 7.
    moved = [tuple(map(float, values)) for values in (7 * place + 3, 7 * scale, 7 * place - 99 * scale, 7 * place + 99 * scale)]
    other = known(ud.codecs.Arrays((3,), None, *moved, dtype="float64"), model.recipe, 0.0, v).log_likelihood(7 * records + 3)
    np.testing.assert_allclose((other.value - found.value).numpy(), -3 * np.log(7), atol=1e-4)


def test_likelihoods_are_cut_into_batches_without_a_trace(model, digits, monkeypatch):
    from undrift import model as facade

    where = {"class": digits[1][:5]}
    whole = model.log_likelihood(digits[0][:5], where, steps=2, probes=2, seed=4)
    monkeypatch.setattr(facade, "TRACKED", 2 * 64)
    parts = model.log_likelihood(digits[0][:5], where, steps=2, probes=2, seed=4)
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-4, atol=0.01)
    assert parts.calls == 3 * whole.calls


def test_bits_of_images_known_for_certain(model):
    # One image, known for certain: only the blur costs, log2(2 pi e / 12) / 2 = .2546 bits a pixel. Its levels are those of the
    # codec, 17 in [-1, 1]. In the user's units, whole numbers, the same density gives the same bits.
    image = np.array([[0, 3], [16, 8]], dtype=np.uint8)
    codec = ud.codecs.Images((2, 2), 0.0, 16.0, 17, "uint8")
    exact = known(codec, model.recipe, codec.encode(image[None])[0], 1e-10)
    images = np.repeat(image[None], 1000, 0)
    bits = exact.bits_per_dim(images, steps=24)
    assert float(bits.value.mean()) == pytest.approx(0.2546, abs=0.05)  # 4000 pixels: .010 of standard error
    assert float(bits.discretisation.max()) < 0.01
    blur = 1 / (8 * 12**0.5)
    density = exact.log_likelihood(
        images[:2], steps=24, sigma_min=blur
    )  # at the level itself, u = 0: (u / blur)^2 / 2 is saved
    # and the model starts from N(0, 400), not from N(image, 400 + ...): half the image's square in units of 400
    off = float(exact.net.mean.square().sum()) / (2 * 400) / (4 * np.log(2))
    at_level = 0.5 * np.log2(2 * np.pi / 12) + off
    np.testing.assert_allclose(density.bits(4, 1.0).value.numpy(), at_level, atol=1e-3)
    # A broad density, where the width of a level counts: gray pixels under N(0, .25), 8 levels a unit.
    broad, spread2 = known(codec, model.recipe, 0.0, 0.25), (0.25 + blur**2) * 400 / 400.25
    bits = broad.bits_per_dim(np.full((50, 2, 2), 8, dtype=np.uint8), steps=24)
    want = 3 + 0.5 * np.log2(2 * np.pi * spread2) + blur**2 / (2 * spread2 * np.log(2))
    assert float(bits.value.mean()) == pytest.approx(want, abs=0.005)  # u^2 of 200 pixels: .0004; the steps: .003
    with pytest.raises(DataError, match="these records have none"):
        known(ud.codecs.Images((2, 2), 0.0, 1.0), model.recipe, 0.0, 1.0).bits_per_dim(images / 16)


def test_records_without_a_density_are_refused_with_the_reason(model):
    import pandas as pd

    frame = pd.DataFrame({"size": np.arange(12) / 7, "town": ["a", "b", "c"] * 4})
    table = known(ud.codecs.Table.guess(frame), model.recipe, 0.0, 1.0)
    with pytest.raises(DataError, match=r"'town' has levels, which have probabilities and no density.*as an array"):
        table.log_likelihood(frame)
    records = np.ones((4, 2))
    records[:, 0] = np.arange(4)
    with pytest.raises(DataError, match="coordinate 1 never changes"):
        known(ud.codecs.Arrays.guess(records), model.recipe, 0.0, 1.0).log_likelihood(records)
    with pytest.raises(DataError, match="NaN"):
        known(ud.codecs.Arrays.guess(records[:, :1]), model.recipe, 0.0, 1.0).log_likelihood(np.array([[np.nan]]))


def test_records_become_noise_and_come_back(model, digits):
    images, labels = digits
    where = {"class": labels[:6]}
    noise = model.encode(images[:6], where)
    assert noise.shape == (6, 1, 8, 8)
    level = float(model.denoiser.path.schedule.sigma(torch.tensor(1.0, dtype=torch.float64)))
    assert 0.5 < float(noise.std()) / level < 1.5  # noise of the prior's size
    back = model.sample(6, where, start=noise, steps=100)
    assert np.abs(back - images[:6]).mean() < 0.25  # of 16 levels; another solver, and decoding rounds
    other = model.sample(6, where, start=model.noise(6), steps=100)
    assert np.abs(other - images[:6]).mean() > 1.0
    with pytest.raises(DataError, match="this model was fitted on"):
        model.encode(images[:2, :4])


def test_records_between_records(model, digits):
    images, _ = digits
    walk = model.interpolate(images[:2], images[2:4], 3, steps=24)
    assert walk.shape == (6, 8, 8)
    ends = walk[[0, 3, 2, 5]]
    assert np.abs(ends - images[:4]).mean() < 0.1  # a round trip, rounded to levels
    with pytest.raises(DataError, match="2 records were given to walk from, and 1 to walk to"):
        model.interpolate(images[:2], images[:1])


def test_tuned_samples_are_closer_to_the_fine_solution(model, tmp_path):
    # On noise that tuning has not seen, against a solver that it did not use.
    fresh = ud.Model(model.denoiser, model.codec, model.conditions, model.recipe)
    where, ask = {"class": [i % 10 for i in range(40)]}, {"steps": 6, "seed": 77}
    fine = fresh.states(40, where, seed=77, steps=60, sampler=gaussian.Heun())

    def median() -> float:
        return float((fresh.states(40, where, **ask) - fine).flatten(1).square().mean(1).sqrt().median())

    before = median()
    found = fresh.tune(6, {"class": 3}, n=48)
    assert fresh.route(6) is found
    assert median() < 0.85 * before
    assert found.error.median <= found.default.median
    assert fresh.route(6, scale=2.0) is not found  # another scale is another model
    again = ud.load(fresh.save(tmp_path / "run"))
    assert again.tuned == fresh.tuned
    torch.testing.assert_close(again.states(3, **ask), fresh.states(3, **ask), rtol=0, atol=1e-5)
    assert fresh.route("auto", tolerance=1.01 * found.error.median).calls <= 6
    # Records are noised and sampled back by the default, whose weights do not depend on where it starts.
    images = fresh.sample(2, steps=6)
    assert fresh.sample(2, like=images, strength=0.5, steps=6).shape == images.shape


def test_trust_is_the_distance_to_twice_the_calls(model):
    # The default solver on its grid with every step halved, by hand.
    route = gaussian.default(model.denoiser.path, 8)
    times = [u for t, s in route.grid.pairs() for u in (t, 0.5 * (t + s))] + [0.0]
    ends = []
    for grid in (route.grid, ud.grids.of_times(times)):
        for step in ud.trajectory(model.guided(5), route.sampler, grid, model.noise(5), rng=ud.core.Shared(0)):
            x = step.x
        ends.append(x)
    want = (ends[0] - ends[1]).flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(model.trust(5, steps=8).float(), want.detach(), rtol=1e-3, atol=1e-6)
    assert float(model.trust(5, steps=32).median()) < 0.3 * float(model.trust(5, steps=8).median())


def test_trust_follows_what_is_asked_for_in_any_batches(model, monkeypatch):
    from undrift import model as facade

    where = {"class": [0, 1, 2, 3, 4]}
    want = gaussian.discretisation(model.guided(5, where, 2.0), model.route(4, scale=2.0), model.noise(5))
    monkeypatch.setattr(facade, "AT_ONCE", 2)
    # Batches of float32 differ by rounding, from one another and from one sample to the next.
    torch.testing.assert_close(model.trust(5, where, scale=2.0, steps=4), want, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("ask", "cure"),
    [
        ({"steps": "auto"}, "go together"),
        ({"steps": 8, "tolerance": 0.1}, "go together"),
        ({"steps": "auto", "tolerance": 0.1}, r"call model.tune\(calls=8\) once"),
        ({"steps": "few"}, "or \"auto\" with a tolerance, got 'few'"),
        ({"steps": 0}, "at least one network call"),
    ],
)
def test_numbers_of_calls_that_make_no_sense_are_refused_with_the_cure(model, ask, cure):
    with pytest.raises(GridError, match=cure):
        model.sample(2, **ask)


def test_a_compiled_network_gives_the_same_samples(tmp_path):
    # In a process of its own: the shape checks of this test suite cannot be compiled. A small network, for the compiler's sake.
    small = ud.fit(
        np.random.default_rng(0).normal(size=(64, 3)), training=Settings(steps=5), network={"width": 16}, progress=False
    )
    script = (
        f"import torch, undrift as ud; m = ud.load({str(small.save(tmp_path / 'run'))!r}); "
        "torch.testing.assert_close(m.states(3, steps=3, compile=True), m.states(3, steps=3), rtol=0, atol=1e-3)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
