"""Few-shot splits are nested, whatever the imbalance."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dct_augment import datasets


@given(st.integers(1, 6), st.integers(1, 5), st.floats(1, 50), st.integers(0, 3))
def test_few_shot_is_nested_whatever_the_imbalance(shots: int, more: int, imbalance: float, seed: int) -> None:
    data = datasets.load("digits")
    small, large = (
        {example.key for example in datasets.few_shot(data, count, seed, imbalance).train}
        for count in (shots, shots + more)
    )
    assert small <= large
    counts = Counter(example.label for example in datasets.few_shot(data, shots, seed, imbalance).train)
    sizes = [counts[info.index] for info in data.classes]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (shots, max(1, round(shots / imbalance)))
