"""The facade on real digits: fit, sample by class, save, load; and every way a run on disk can be broken."""

import json

import numpy as np
import pytest
import torch

import undrift as ud
from undrift import gaussian, schedules
from undrift.errors import CheckpointError, DataError, LabelError
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
