"""Finds pictures that are the same: in every pixel, or but for format, compression and size.

Near duplicates are searched by perceptual hash and then compared by their pixels, so that pictures which are merely
alike are not taken for the same. Time grows linearly with the number of pictures.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dct_augment.datasets.inspection import Pictures

RADIUS = 4
"""Bits of 64 that the perceptual hashes of near duplicates may differ in. JPEG and resizing change up to 2."""

MAX_DIFFERENCE = 0.12
"""Largest difference of the thumbnails of near duplicates, as a share of their contrast (root mean squares)."""

MIN_CONTRAST = 4.0
"""Grey levels. The hash of a flat picture says nothing, so it is only compared in every pixel."""

MIN_SIDE = 16
"""Pixels. Smaller pictures are only compared in every pixel."""

_BLOCKS = 6
_WINDOW = 64  # neighbours that a picture is compared with, among those of equal blocks
_COMPRESSION = 1.5  # grey levels that JPEG or WebP of quality 75 may change, whatever the contrast
_MAX_ABSOLUTE_DIFFERENCE = 8.0  # grey levels
_MAX_SIGNATURE_DIFFERENCE = 6  # grey levels in any of 4 x 4 parts
_MAX_COMPARISONS = 16  # of one picture's pixels with those of others that prove different
_BATCH = 256  # pairs whose thumbnails are made at a time
_KEPT_THUMBNAILS = 4096

Thumbnails = Callable[[Sequence[int]], np.ndarray]
"""Makes the thumbnails (B, 32, 32, 3) of some rows."""


def find_duplicates(pictures: Pictures, thumbnails: Thumbnails) -> np.ndarray:
    """Group the pictures that are the same.

    Returns:
        For each row, the first row of its group; -1 for a picture without a duplicate. Rows of a group with the same
        content are exact duplicates, others near ones.
    """
    first = _first_with_same_content(pictures)
    groups = _Groups(first)
    candidates = np.flatnonzero(first == np.arange(len(first)))
    rows = pictures.rows[candidates]
    is_clear = (rows["contrast"] >= MIN_CONTRAST) & (np.minimum(rows["width"], rows["height"]) >= MIN_SIDE)
    candidates = candidates[is_clear]
    _join_near(pictures, candidates, groups, thumbnails)
    roots = groups.roots()
    roots[first < 0] = -1
    return _without_single(roots)


def find_exact(pictures: Pictures) -> np.ndarray:
    """Group the pictures that are the same in every pixel, as `find_duplicates` does; none is opened for it."""
    return _without_single(_first_with_same_content(pictures))


def _without_single(roots: np.ndarray) -> np.ndarray:
    """Set the root of each picture that is alone in its group to -1."""
    sizes = np.bincount(roots[roots >= 0], minlength=len(roots))
    roots[(roots >= 0) & (sizes[roots] == 1)] = -1
    return roots


def copies(pictures: Pictures, groups: np.ndarray) -> np.ndarray:
    """Choose the rows to leave out, so that no picture is there twice.

    What is in test stays there and leaves val and train; what is in val leaves train; of copies within train the first
    stays. Test and val are not changed within themselves.

    Args:
        pictures: all pictures.
        groups: what `find_duplicates` returns.
    """
    rows = np.flatnonzero(groups >= 0)
    split, group = pictures.split[rows], groups[rows]
    strongest = np.zeros(len(pictures), np.int8)
    np.maximum.at(strongest, group, split)  # train, val and test are 0, 1 and 2
    is_copy = split < strongest[group]
    is_copy |= (strongest[group] == 0) & (rows != group)
    return rows[is_copy]


def close_pairs(hashes: np.ndarray, order_by: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield pairs of places (N, 2) whose 64-bit hashes differ in at most `RADIUS` bits, each pair once.

    Four bits change at most four of the six blocks of a hash, so such a pair has two equal blocks. For each choice of
    two, hashes are sorted by these, and each is compared with its next `_WINDOW` neighbours that have the same two. All
    pairs are found as long as no more hashes than that share two blocks; thousands of close hashes stay linear.

    Args:
        hashes: unsigned 64-bit numbers.
        order_by: numbers by which equal hashes are sorted: of those, near neighbours alone are compared.
    """
    if order_by is None:
        order_by = np.zeros(len(hashes))
    masks = _block_masks()
    for chosen in combinations(range(_BLOCKS), _BLOCKS - RADIUS):
        mask = np.bitwise_or.reduce(masks[list(chosen)])
        blocks = hashes & mask
        order = np.lexsort((order_by, hashes, blocks))
        blocks, ordered = blocks[order], hashes[order]
        places = np.arange(len(order))
        for step in range(1, _WINDOW + 1):
            places = places[places + step < len(order)]
            places = places[blocks[places] == blocks[places + step]]
            if not len(places):
                break
            differing = ordered[places] ^ ordered[places + step]
            is_close = (np.bitwise_count(differing) <= RADIUS) & _is_first_choice(differing, masks, chosen)
            if is_close.any():
                near = places[is_close]
                yield np.stack([order[near], order[near + step]], 1)


def _block_masks() -> np.ndarray:
    """Divide 64 bits into blocks of 10 or 11."""
    bounds = np.linspace(0, 64, _BLOCKS + 1).round().astype(int)
    masks = [(1 << end) - (1 << begin) for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    return np.array(masks, np.uint64)


def _is_first_choice(differing: np.ndarray, masks: np.ndarray, chosen: tuple[int, ...]) -> np.ndarray:
    """Check that the chosen blocks are the first equal ones: other choices yield the same pair again."""
    is_first = np.ones(len(differing), bool)
    for block in range(chosen[-1]):
        if block not in chosen:
            is_first &= (differing & masks[block]) != 0
    return is_first


def _first_with_same_content(pictures: Pictures) -> np.ndarray:
    """For each row, the first row with the same pixels; -1 for one that cannot be read."""
    first = np.full(len(pictures), -1)
    readable = pictures.readable
    contents = np.ascontiguousarray(pictures.rows["content"][readable]).view(">u8")
    order = np.lexsort(contents.T)  # stable: of equal ones, the first row comes first
    ordered = contents[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    groups = np.cumsum(is_new) - 1
    first[readable[order]] = readable[order[is_new][groups]]
    return first


class _Groups:
    """Rows that are the same, joined pair by pair; the root of a group is its first row."""

    def __init__(self, first: np.ndarray) -> None:
        self._parent = np.where(first < 0, np.arange(len(first)), first)

    def root(self, row: int) -> int:
        """Find the first row of a group, and shorten the way to it."""
        path = []
        while self._parent[row] != row:
            path.append(row)
            row = int(self._parent[row])
        self._parent[path] = row
        return row

    def join(self, one: int, other: int) -> None:
        roots = sorted((self.root(one), self.root(other)))
        self._parent[roots[1]] = roots[0]

    def roots(self) -> np.ndarray:
        """Find the first row of every row's group."""
        parent = self._parent
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
        return parent.copy()


@dataclass(frozen=True)
class _Thumbnails:
    """The thumbnails that were made last."""

    make: Thumbnails
    kept: OrderedDict[int, np.ndarray]

    def prepare(self, rows: Sequence[int]) -> None:
        """Make those that are missing, and forget the oldest."""
        for row in rows:
            if row in self.kept:
                self.kept.move_to_end(row)
        missing = [row for row in dict.fromkeys(rows) if row not in self.kept]
        if missing:
            self.kept.update(zip(missing, self.make(missing), strict=True))
        while len(self.kept) > _KEPT_THUMBNAILS:
            self.kept.popitem(last=False)

    def are_same(self, one: int, other: int) -> bool:
        """Compare two pictures in grey: JPEG blurs colours, and signatures have compared these."""
        first, second = (self.kept[row].mean(2, dtype=np.float32) for row in (one, other))
        difference = np.sqrt(np.mean((first - second) ** 2))
        contrast = min(first.std(), second.std())
        allowed = np.clip(MAX_DIFFERENCE * contrast, _COMPRESSION, _MAX_ABSOLUTE_DIFFERENCE)
        return bool(difference <= allowed)


def _join_near(pictures: Pictures, candidates: np.ndarray, groups: _Groups, make: Thumbnails) -> None:
    """Compare the pixels of pictures with close hashes and signatures, and join those that are the same."""
    rows = pictures.rows[candidates]
    signatures = rows["signature"]
    brightness = signatures.mean(1)
    compared = np.zeros(len(candidates), np.int32)
    kept = _Thumbnails(make, OrderedDict())
    for pairs in close_pairs(rows["perceptual_hash"], brightness):
        for begin in range(0, len(pairs), _BATCH):
            batch = pairs[begin : begin + _BATCH]
            apart = np.abs(signatures[batch[:, 0]].astype(np.int16) - signatures[batch[:, 1]])
            batch = batch[apart.max(1) <= _MAX_SIGNATURE_DIFFERENCE]
            _join_batch(batch, candidates, compared, groups, kept)


def _join_batch(
    batch: np.ndarray, candidates: np.ndarray, compared: np.ndarray, groups: _Groups, kept: _Thumbnails
) -> None:
    open_pairs = []
    for one, other in batch.tolist():
        is_joined = groups.root(int(candidates[one])) == groups.root(int(candidates[other]))
        if not is_joined and max(compared[one], compared[other]) < _MAX_COMPARISONS:
            open_pairs.append((one, other))
    kept.prepare([int(candidates[place]) for pair in open_pairs for place in pair])
    for one, other in open_pairs:
        first, second = int(candidates[one]), int(candidates[other])
        if kept.are_same(first, second):
            groups.join(first, second)
        else:
            compared[[one, other]] += 1
