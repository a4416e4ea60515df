"""How documents of different lengths share rows of one fixed length, and which token may look at which."""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The pack number of every document: longest first, each into the fullest pack that still has room.

    Packs are numbered by their first document, so the packs follow the order of the dataset.
    The rule is best-fit decreasing, as in https://arxiv.org/abs/2404.10830; samples much shorter than a pack leave
    less than 0.1 % of the room unused.

    Args:
        lengths: tokens per document, each from 1 to ``capacity``
    """
    pack_of = np.empty(len(lengths), dtype=np.int64)
    rooms: list[int] = []  # the distinct amounts of free room, ascending; full packs are not kept
    packs_with_room: dict[int, list[int]] = {}
    num_packs = 0
    for document in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[document])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            pack, room = num_packs, capacity
            num_packs += 1
        else:
            room = rooms[at]
            pack = packs_with_room[room].pop()
            if not packs_with_room[room]:
                del packs_with_room[room], rooms[at]
        pack_of[document] = pack
        room -= length
        if room in packs_with_room:
            packs_with_room[room].append(pack)
        elif room:
            packs_with_room[room] = [pack]
            insort(rooms, room)
    return _numbered_by_first_document(pack_of)


def next_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The pack number of every document in its order; one that does not fit begins a new pack.

    Args:
        lengths: tokens per document, each from 1 to ``capacity``
    """
    pack_of = np.empty(len(lengths), dtype=np.int64)
    pack, room = 0, capacity
    for document, length in enumerate(lengths.tolist()):
        if length > room:
            pack, room = pack + 1, capacity
        pack_of[document] = pack
        room -= length
    return pack_of


def _numbered_by_first_document(pack_of: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(pack_of, return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[inverse]


def cut_at_capacity(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Where pieces start and end when documents are laid end to end and cut at document ends and at every ``capacity``.

    Returns:
        starts and stops in the flat row of all tokens; every piece lies in one document and in one pack,
        which is ``start // capacity``
    """
    total = int(lengths.sum())
    cuts = np.union1d(np.concatenate([[0], np.cumsum(lengths)]), np.arange(0, total, capacity))
    return cuts[:-1], cuts[1:]


def block_causal_mask(seq_lens: Sequence[Tensor]) -> Tensor:
    """Which position (row) may look at which (column): earlier ones of its own document. ``[B, S, S]``, bool.

    Args:
        seq_lens: for each row of the batch the lengths of its documents, padding included, that add up to ``S``
    """
    totals = {int(lens.sum()) for lens in seq_lens}
    if len(totals) != 1:
        raise ValueError(f"the rows of a packed batch must have one length, found {sorted(totals)}")
    size = totals.pop()
    longest = max(int(lens.max()) for lens in seq_lens)
    triangle = torch.ones(longest, longest, dtype=torch.bool).tril_()
    mask = torch.zeros(len(seq_lens), size, size, dtype=torch.bool)
    for row, lens in zip(mask, seq_lens):
        start = 0
        for length in lens.tolist():
            row[start : start + length, start : start + length] = triangle[:length, :length]
            start += length
    return mask
