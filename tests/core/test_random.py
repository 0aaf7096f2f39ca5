"""Certifies `undrift.core.random`: streams per sample that no batch can change, replay, moments, no global state."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undrift.core import Deterministic, PerSample, Random, Shared
from undrift.errors import GridError, ShapeError

FLOATS = [torch.float32, torch.float64]
HALVES = [torch.float16, torch.bfloat16]
KINDS = ["normal", "uniform"]
SOURCES = {"shared": lambda seed: Shared(seed), "per_sample": lambda seed: PerSample(seed, range(7, 47))}


def two_draws(rng: Random, batch: int, dtype: torch.dtype) -> torch.Tensor:
    """A normal draw of one shape, then a uniform one of another, as a sampler would; shape (B, 8)."""
    first = rng.normal((batch, 5), dtype=dtype)
    return torch.cat([first, rng.uniform((batch, 3, 1), dtype=dtype)[..., 0]], 1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_noise_is_the_same_in_any_batch(dtype: torch.dtype) -> None:
    whole = two_draws(PerSample(7, 8), 8, dtype)
    for subset in ([5], [0, 1, 2], [7, 3], [6, 2, 2, 0], list(range(8))[::-1]):
        assert torch.equal(two_draws(PerSample(7, subset), len(subset), dtype), whole[subset])


@settings(max_examples=30, deadline=None)
@given(
    indices=st.lists(st.integers(0, 2**63), min_size=1, max_size=4),
    seed=st.integers(-(2**63), 2**63),
    event=st.lists(st.integers(1, 3), max_size=3),
    dtype=st.sampled_from(FLOATS),
)
def test_a_sample_alone_is_the_sample_in_company(indices: list[int], seed: int, event: list[int], dtype: torch.dtype) -> None:
    together = PerSample(seed, indices).normal((len(indices), *event), dtype=dtype)
    for row, i in zip(together, indices, strict=True):
        assert torch.equal(PerSample(seed, [i]).normal((1, *event), dtype=dtype)[0], row)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_precision_draw_is_the_rounded_single_precision_draw(dtype: torch.dtype) -> None:
    half = PerSample(3, 4).normal((4, 50), dtype=dtype)
    assert torch.equal(half, PerSample(3, 4).normal((4, 50), dtype=torch.float32).to(dtype))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", [*FLOATS, *HALVES])
def test_uniform_never_reaches_one(source: str, dtype: torch.dtype) -> None:
    # Rounding a float32 draw to bfloat16 would make a 1 in one of 512 numbers: missed by 40,000 with probability < 1e-33.
    u = SOURCES[source](0).uniform((40, 1000), dtype=dtype)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_seeds_and_samples_differ(dtype: torch.dtype) -> None:
    streams = [PerSample(seed, [i]).normal((1, 4), dtype=dtype)[0] for seed in (0, 1, -1) for i in (0, 1, 2)]
    streams += [Shared(seed).normal((4,), dtype=dtype) for seed in (0, 1, -1)]
    flat = torch.cat(streams)
    assert len(flat.unique()) == len(flat)  # false alarm: 48 float32 draws collide with probability < 1e-4


@pytest.mark.parametrize("source", SOURCES)
def test_replay_rewinds_to_the_seed(source: str) -> None:
    rng = SOURCES[source](11)
    first = two_draws(rng, 40, torch.float64)
    assert not torch.equal(two_draws(rng, 40, torch.float64), first)
    again = rng.replay()
    assert isinstance(again, Random)
    assert torch.equal(two_draws(again, 40, torch.float64), first)
    assert not torch.equal(two_draws(rng, 40, torch.float64), first)  # replay gives a new source, the old one goes on


@pytest.mark.parametrize("source", SOURCES)
def test_global_generators_are_neither_read_nor_moved(source: str) -> None:
    draws = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the legacy global state is what is watched here
        before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        draws.append(two_draws(SOURCES[source](5), 40, torch.float64))
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002
    assert torch.equal(*draws)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_follow_their_law(source: str, dtype: torch.dtype, kind: str) -> None:
    # Fixed seed. Each of 8 cases: KS p > 1e-4, and four z-scores below 5: false alarm < 1e-4 + 3e-6 a case.
    x = getattr(SOURCES[source](2), kind)((40, 2500), dtype=dtype).double().numpy()
    law = scipy.stats.norm() if kind == "normal" else scipy.stats.uniform()
    assert scipy.stats.kstest(x.ravel(), law.cdf).pvalue > 1e-4
    z = (x - law.mean()) / law.std()
    kurtosis = float(law.stats("k")) + 3
    assert abs(z.mean()) * np.sqrt(x.size) < 5
    assert abs((z**2).mean() - 1) * np.sqrt(x.size / (kurtosis - 1)) < 5
    assert abs((z[:-1] * z[1:]).mean()) * np.sqrt(z[1:].size) < 5  # neighbouring samples are independent
    assert abs((z[:, :-1] * z[:, 1:]).mean()) * np.sqrt(z[:, 1:].size) < 5  # and so are neighbouring numbers


@pytest.mark.parametrize("shape", [(2, 3), (4, 3), (), (9,)])
def test_another_batch_is_refused_with_the_cure(shape: tuple[int, ...]) -> None:
    rng = PerSample(0, 3)
    assert len(rng) == 3
    with pytest.raises(ShapeError, match=r"3 per-sample streams.*PerSample\(seed, batch_size\), or use Shared\(seed\)"):
        rng.normal(shape, dtype=torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deterministic_source_refuses(kind: str) -> None:
    source = Deterministic().replay()
    assert isinstance(source, Random)
    with pytest.raises(GridError, match="use a deterministic one"):
        getattr(source, kind)((2, 3), dtype=torch.float32)


def test_an_empty_batch_and_an_empty_event_draw_nothing() -> None:
    assert PerSample(0, 0).normal((0, 4), dtype=torch.float32).numel() == 0
    rng = PerSample(0, 2)
    assert rng.normal((2, 0), dtype=torch.float64).numel() == 0
    assert torch.equal(rng.normal((2, 3), dtype=torch.float64), PerSample(0, 2).normal((2, 3), dtype=torch.float64))
