"""Numbers that belong to rows."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from mrdist.students import chance

MASK = 2**64 - 1


def splitmix(bits: int) -> int:
    """SplitMix64's finaliser on Python's unbounded integers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def rows(count: int, *, seed: int = 0) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("key", "salt"), [(0, 0), (1, 0), (-1, 3), (2**63 - 1, 1), (-(2**63), 17)])
def test_a_number_is_what_splitmix_says(key: int, salt: int) -> None:
    step = 0x9E3779B97F4A7C15
    start = splitmix((splitmix(key & MASK) + (salt + 1) * step) & MASK)
    wanted = [(splitmix((start + k * step) & MASK) >> 40) * 2.0**-24 for k in range(1, 6)]
    assert chance.uniform(torch.tensor([key]), salt, 5)[0].tolist() == wanted


@pytest.mark.parametrize("keys", [torch.arange(4000), rows(4000), torch.arange(4000) << 40], ids=["counting", "random", "high bits"])
def test_numbers_are_uniform_and_independent(keys: Tensor) -> None:
    drawn = torch.stack([chance.uniform(keys, salt, 4) for salt in range(3)]).double()  # [3, 4000, 4]
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 4 / (12 * drawn.numel()) ** 0.5
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3
    # Between salts, positions and neighbouring rows: no correlation beyond 4.5 standard errors.
    columns = torch.cat([drawn.permute(1, 0, 2).flatten(1)[1:], drawn.permute(1, 0, 2).flatten(1)[:-1]], dim=1)
    off = torch.corrcoef(columns.T) - torch.eye(24)
    assert off.abs().max() < 4.5 / len(keys) ** 0.5
    # And no dependence that correlation does not see: pairs fill a 16 x 16 table evenly.
    table = torch.histogramdd(drawn[:2, :, 0].T.contiguous(), bins=[16, 16], range=[0.0, 1.0, 0.0, 1.0]).hist
    assert stats.chisquare(table.flatten().numpy()).pvalue > 1e-3


def test_a_row_draws_the_same_whoever_stands_beside_it() -> None:
    keys = rows(64)
    whole = chance.uniform(keys, 2, 7)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert chance.uniform(keys[order], 2, 7).equal(whole[order])
    assert torch.cat([chance.uniform(part, 2, 7) for part in torch.split(keys, [1, 20, 43])]).equal(whole)
    assert chance.uniform(keys, 2, 9)[:, :7].equal(whole)


def test_torch_generators_are_neither_read_nor_moved() -> None:
    keys = rows(8)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = chance.uniform(keys, 0, 3)
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(1)
    assert chance.uniform(keys, 0, 3).equal(first)


def test_branches_survive_as_often_as_they_should_and_keep_the_mean() -> None:
    survival = chance.survival(rows(20_000), 0.4, 5)
    assert survival is not None
    assert survival.shape == (20_000, 10)
    rates = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]).repeat_interleave(2)
    assert ((survival == 0).float().mean(0) - rates).abs().max() < 0.015
    assert (survival.mean(0) - 1).abs().max() < 0.025
    assert chance.survival(rows(3), 0.0, 5) is None
    assert chance.survival(None, 0.4, 5) is None


def test_things_are_kept_evenly_and_in_order() -> None:
    things = torch.arange(100, 112).expand(20_000, 12)
    kept = chance.kept(things, rows(20_000), 0.5)
    assert kept.shape == (20_000, 6)
    assert (kept.diff(dim=1) > 0).all()
    assert (kept.flatten().bincount()[100:] / 20_000 - 0.5).abs().max() < 0.015
    # Of 924 halves of twelve things, all come up.
    assert len(torch.unique((2 ** (kept - 100)).sum(1))) == 924
    assert chance.kept(things[:2], rows(2), 0.99).shape == (2, 1)
    assert chance.kept(things, None, 0.5) is things
