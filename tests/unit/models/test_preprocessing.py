"""The encoder's transforms against their definitions, and its values at the edges."""

import numpy as np
import pytest
import torch

from ontime.models.preprocessing import RANK_CLIP, Encoder
from ontime.models.serialization import TrainedModel


def test_the_rank_transform_is_normal_and_the_z_score_is_clipped() -> None:
    skewed = np.random.default_rng(0).exponential(100.0, (20_000, 1)).astype("float32")
    rank, z, missing = Encoder.fit(skewed)(torch.from_numpy(skewed)).T
    assert abs(rank.mean()) < 0.02
    assert abs(rank.std() - 1) < 0.05
    expected = ((skewed[:, 0] - np.median(skewed)) / skewed.std()).clip(-4, 4)
    np.testing.assert_allclose(z, expected, atol=1e-5)
    assert z.max() == 4.0
    assert not missing.any()


def test_the_rank_is_exact_except_where_values_crowd_in_one_bin() -> None:
    """A tenth of these values lies within about a hundredth of the interquartile range."""
    crowded = np.random.default_rng(0).gamma(0.5, 100.0, 20_000).astype("float32")
    share = (crowded.argsort().argsort() + 0.5) / len(crowded)
    exact = torch.special.ndtri(torch.from_numpy(share.clip(RANK_CLIP, 1 - RANK_CLIP)))
    found = Encoder.fit(crowded[:, None])(torch.from_numpy(crowded[:, None]))[:, 0]
    error = (found - exact).abs().numpy()
    assert error[share > 0.1].max() < 0.03
    assert error.max() < 0.4
    assert np.median(error) < 0.001


def test_the_rank_transform_is_monotonic_and_finite_far_outside_the_training_values() -> None:
    values = np.random.default_rng(0).standard_normal((5000, 1)).astype("float32")
    encoder = Encoder.fit(values)
    inside = torch.linspace(-3, 3, 500)[:, None]
    assert (encoder(inside)[:, 0].diff() >= 0).all()
    for extreme in (3e38, torch.inf):  # an exported model has no check against infinity
        outside = encoder(torch.tensor([[-extreme], [extreme]]))
        assert outside.isfinite().all()
        assert outside[0, 0] < -2.5 < 2.5 < outside[1, 0]


def test_tied_values_share_their_mean_rank() -> None:
    mostly_zero = np.zeros((1000, 1), "float32")
    mostly_zero[900:] = np.linspace(1, 2, 100)[:, None]
    rank = Encoder.fit(mostly_zero)(torch.tensor([[0.0], [1.5]]))[:, 0]
    assert rank[0] == pytest.approx(-0.126, abs=0.02)  # the middle of the lowest 90 %
    assert rank[1] == pytest.approx(1.64, abs=0.05)  # 95 % are below


def test_a_missing_value_is_zero_in_both_transforms_and_one_in_the_indicator(
    model: TrainedModel,
) -> None:
    encoded = model.network.encoder(torch.tensor([[float("nan"), 5.0, 1.0]]))
    rank, z, missing = encoded.reshape(3, 3)
    assert (rank[0], z[0], missing[0]) == (0, 0, 1)
    assert not missing[1:].any()


def test_a_constant_feature_and_an_absent_feature_are_encoded_as_zero() -> None:
    train = np.full((100, 2), np.nan, "float32")
    train[:, 0] = 7.0
    encoded = Encoder.fit(train)(torch.tensor([[7.0, 3.0], [9.0, float("nan")]]))
    assert encoded.isfinite().all()
    assert not encoded[:, :4].any()
