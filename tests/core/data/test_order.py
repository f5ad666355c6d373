"""The order of samples: a bijection, uniform enough, and a pure function."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.data.loading.order import Order, Permutation


@given(length=st.integers(1, 3000), seed=st.integers(-(2**40), 2**40), epoch=st.integers(0, 10**6))
def test_permutation_is_a_bijection(length: int, seed: int, epoch: int) -> None:
    permutation = Permutation(length, "order", seed, epoch)
    assert sorted(permutation(place) for place in range(length)) == list(range(length))


@given(length=st.integers(1, 10**12), place=st.integers(0, 10**12))
def test_permutation_of_any_length_stays_inside(length: int, place: int) -> None:
    assert 0 <= Permutation(length, "a")(place % length) < length


def test_huge_permutation_has_no_collision() -> None:
    permutation = Permutation(10**12, "a")
    assert len({permutation(place) for place in range(2000)}) == 2000


@pytest.mark.parametrize("place", [-1, 5])
def test_place_outside_is_an_error(place: int) -> None:
    with pytest.raises(IndexError):
        Permutation(5, "a")(place)


def test_empty_permutation_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Permutation(0, "a")


@pytest.mark.parametrize("length", [5, 16, 37])
def test_every_element_is_first_equally_often(length: int) -> None:
    draws = 200 * length
    counts = Counter(Permutation(length, "seed", seed)(3) for seed in range(draws))
    chi_square = sum((counts[element] - 200) ** 2 / 200 for element in range(length))
    # Mean length - 1, standard deviation sqrt(2 (length - 1)); five of them never happen by chance.
    assert chi_square < length - 1 + 5 * (2 * (length - 1)) ** 0.5


def test_neighbours_do_not_stay_neighbours() -> None:
    length = 10_000
    permutation = Permutation(length, "a")
    order = [permutation(place) for place in range(length)]
    following = sum(abs(a - b) == 1 for a, b in pairwise(order))
    assert following < 15  # two expected


def test_order_goes_through_each_epoch_once_and_epochs_differ() -> None:
    order = Order(100, seed=3)
    first, second = ([order(place) for place in range(start, start + 100)] for start in (0, 100))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second != list(range(100))


def test_order_is_random_access_and_survives_pickling() -> None:
    order = Order(70, seed=1)
    forward = [order(place) for place in range(300)]
    copy = pickle.loads(pickle.dumps(order))
    assert [copy(place) for place in reversed(range(300))] == forward[::-1]
    assert [Order(70, seed=1)(place) for place in (299, 0, 150)] == [forward[299], forward[0], forward[150]]


def test_seed_and_name_change_the_order() -> None:
    orders = [Order(50, 0), Order(50, 1), Order(50, 0, "other")]
    assert len({tuple(order(place) for place in range(50)) for order in orders}) == 3


def test_replacements_depend_on_place_and_attempt_alone() -> None:
    order = Order(1000, seed=0)
    drawn = {(place, attempt): order.replacement(place, attempt) for place in range(20) for attempt in (1, 2)}
    again = Order(1000, seed=0)
    assert all(again.replacement(*key) == value for key, value in drawn.items())
    assert len(set(drawn.values())) > 30 and max(drawn.values()) < 1000


def test_first_values_are_fixed() -> None:
    """A change of these numbers breaks the resume of runs that were started with an older version."""
    order = Order(1000, seed=0)
    assert [order(place) for place in range(5)] == [824, 104, 946, 354, 755]
    assert order.replacement(0, 1) == 496
