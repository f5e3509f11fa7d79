from __future__ import annotations

import pytest
import torch

from solotune.modeling.chat import IGNORE
from solotune.modeling.step import head

ROWS, FEATURES, VOCABULARY = 2500, 32, 160


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """More rows than are done at a time, a third of them without a label."""
    assert ROWS > 2 * head.ROWS
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, FEATURES, generator=generator).requires_grad_()
    weight = torch.randn(VOCABULARY, FEATURES, generator=generator) * 0.2
    labels = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    labels[::3] = IGNORE
    return hidden, weight, labels


@pytest.mark.parametrize("positions_are_known", [True, False])
def test_loss_and_gradient_are_those_of_cross_entropy_in_float64(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor], positions_are_known: bool
) -> None:
    hidden, weight, labels = case
    exact = hidden.detach().double().requires_grad_()
    logits = exact @ weight.double().t()
    wanted = torch.nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORE)
    (wanted_gradient,) = torch.autograd.grad(wanted * 0.25, exact)
    at = (labels >= 0).nonzero().squeeze(1) if positions_are_known else None
    found = head.summed_loss(hidden, weight, labels, at)
    (gradient,) = torch.autograd.grad(found * 0.25, hidden)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=0, atol=1e-6)
    assert not gradient[labels < 0].any()


def test_without_gradient_the_loss_is_the_same_and_nothing_is_kept(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    wanted = head.summed_loss(*case)
    with torch.no_grad():
        found = head.summed_loss(*case)
    assert torch.equal(found, wanted)
    assert found.grad_fn is None


def test_a_pack_without_any_label_has_loss_and_gradient_zero(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    hidden, weight, labels = case
    none = torch.empty(0, dtype=torch.int64)
    loss = head.summed_loss(hidden, weight, torch.full_like(labels, IGNORE), none)
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert not gradient.any()
