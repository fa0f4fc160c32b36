"""How long metrics take: parts of the work that are timed, times how often they come."""

import pytest

from dct_augment.metrics import duration
from dct_augment.metrics.duration import metric_seconds


@pytest.fixture(autouse=True)
def _each_part_takes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(work: object) -> float:
        assert callable(work)
        work()
        return 1.0

    monkeypatch.setattr(duration, "_timed", timed)


def seconds(real: int, synthetic: int, width: int = 8, k: int = 5, resamples: int = 20) -> float:
    return metric_seconds(real, synthetic, width, k=k, resamples=resamples, device="cpu")


def test_of_few_images_all_work_is_timed() -> None:
    # FID and each of its resamples, KID of one and of all, and the neighbourhoods.
    assert seconds(16, 12) == pytest.approx(1 + 20 + 2 + 1)
    assert seconds(16, 12, resamples=200) == pytest.approx(1 + 200 + 2 + 1)


def test_fewer_images_than_neighbours_have_no_neighbourhoods() -> None:
    assert seconds(16, 4) == pytest.approx(1 + 20 + 2)
    assert seconds(16, 1) == 0


def test_kernels_and_neighbourhoods_grow_with_the_pairs_of_images() -> None:
    blocks = (4 * 5 / 2 + 4 * 5 / 2 + 4 * 4) / 3
    assert seconds(4096, 4096, width=4096 // 2) == pytest.approx(1 + 20 + 2 * blocks + 4)


def test_products_of_more_images_than_features_need_are_added() -> None:
    further = 2 * (1000 - 16)
    added = further * (2 + 20 * (1 - 0.36787944)) / 1024
    assert seconds(1000, 1000) == pytest.approx(1 + 20 + added + 2 + 1)
