"""A loss in pieces is the loss, at the memory of a piece."""

from __future__ import annotations

import pytest
import torch

from hf_mmcoa.attacks import APGD, PGD, Momentum, Restarts
from hf_mmcoa.attacks.pieces import in_pieces
from hf_mmcoa.gradients import value_and_gradient

IMAGES = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))
WEIGHTS = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def rows_loss(images, rows):
    return ((images * WEIGHTS[rows]).sin() ** 2).flatten(1).sum(1)


def whole_loss(images):
    return rows_loss(images, slice(None))


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_value_and_gradient_are_those_of_the_whole(size):
    value, grad = value_and_gradient(in_pieces(rows_loss, size), IMAGES)
    expected, expected_grad = value_and_gradient(whole_loss, IMAGES)
    assert torch.equal(value, expected) and torch.equal(grad, expected_grad)
    assert not value.requires_grad


def test_each_loss_has_its_own_weight():
    images = IMAGES.clone().requires_grad_()
    weights = torch.arange(7.0)
    (grad,) = torch.autograd.grad((in_pieces(rows_loss, 3)(images) * weights).sum(), images)
    images = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad((whole_loss(images) * weights).sum(), images)
    assert torch.allclose(grad, expected)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(epsilon=0.1, step_size=0.05, num_steps=3),
        PGD(epsilon=0.5, step_size=0.2, num_steps=3, norm="l2"),
        APGD(epsilon=0.1, num_steps=5),
        Momentum(PGD(epsilon=0.1, step_size=0.05, num_steps=3)),
        Restarts(PGD(epsilon=0.1, step_size=0.05, num_steps=2), times=2),
    ],
)
def test_an_attack_ends_where_it_ends_in_one_piece(attack):
    assert torch.equal(attack(IMAGES, in_pieces(rows_loss, 2)), attack(IMAGES, whole_loss))


def test_no_piece_is_larger_than_asked_and_none_is_computed_twice():
    seen = []

    def loss_fn(images, rows):
        seen.append(rows.tolist())
        return rows_loss(images, rows)

    value_and_gradient(in_pieces(loss_fn, 3), IMAGES)
    assert seen == [[0, 1, 2], [3, 4, 5], [6]]


def test_without_gradient_none_is_computed():
    graphs = []

    def loss_fn(images, rows):
        graphs.append(torch.is_grad_enabled())
        return rows_loss(images, rows)

    with torch.no_grad():
        assert torch.equal(in_pieces(loss_fn, 4)(IMAGES), whole_loss(IMAGES))
    assert graphs == [False, False]


def test_rows_that_fell_are_neither_computed_nor_moved():
    standing, seen = torch.tensor([True, False, True, True, False, True, True]), []

    def loss_fn(images, rows):
        seen.append(rows.tolist())
        standing[rows] = rows != 3  # the fourth falls in the first step
        return rows_loss(images, rows) * standing[rows]

    attack = PGD(epsilon=0.1, step_size=0.05, num_steps=2, random_start=False)
    moved = attack(IMAGES, in_pieces(loss_fn, 3, standing)) != IMAGES
    assert seen == [[0, 2, 3], [5, 6], [0, 2, 5], [6]]
    assert moved.flatten(1).any(1).tolist() == standing.tolist()
    plain = attack(IMAGES, whole_loss)
    stopped = attack(IMAGES, in_pieces(lambda images, rows: rows_loss(images, rows), 7, standing))
    assert torch.equal(stopped[standing], plain[standing])
    nobody = torch.zeros(7, dtype=torch.bool)
    assert torch.equal(attack(IMAGES, in_pieces(rows_loss, 3, nobody)), IMAGES)
