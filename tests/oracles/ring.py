"""Plain NumPy: a ring of peers with a buffer each, hop by hop; a butterfly; and an operation that deaths interrupt."""

from __future__ import annotations

import numpy as np


def over_the_wire(chunk, rounding="floor", faithful=False):
    """A chunk of float32 after one hop in 8 bits."""
    if not len(chunk):
        return chunk
    f = np.float32
    low, high = chunk.min(), chunk.max()
    if faithful:
        high = max(high, f(1.1754944e-38))
    if high == low:
        return np.full_like(chunk, low)
    share = f(255) * (chunk - low) / (high - low)
    code = np.floor(share) if rounding == "floor" else np.round(share)
    return code * (high - low) / f(255) + low


def ring(inputs, wire=None, replaces=True):
    """Sums at every rank, a list of `[D]`, and the entries each sent.  `wire(chunk)`: what a chunk is after a hop."""
    buffers = [np.array(x, np.float32) for x in inputs]
    num, size = len(buffers), len(buffers[0])
    if num < 2:
        return buffers, [0] * num
    whole, rest = divmod(size, num)
    ends = np.concatenate([[0], np.cumsum([whole + (k < rest) for k in range(num)])])
    part = [slice(ends[k], ends[k + 1]) for k in range(num)]
    wire = (lambda chunk: chunk) if wire is None else wire
    sent = [0] * num
    for s in range(num - 1):
        messages = [wire(buffers[r][part[(r - s) % num]].copy()) for r in range(num)]
        for r in range(num):
            sent[r] += len(messages[r])
            k = (r - s - 1) % num
            buffers[r][part[k]] = buffers[r][part[k]] + messages[(r - 1) % num]
    codes = {}
    for r in range(num):
        k = (r + 1) % num
        codes[r] = wire(buffers[r][part[k]].copy())
        if replaces:
            buffers[r][part[k]] = codes[r]
    for s in range(num - 1):
        passed = {(r + 1) % num: codes[r] for r in range(num)}
        for r in range(num):
            sent[(r - 1) % num] += len(passed[r])
            buffers[r][part[(r - s) % num]] = passed[r]
        codes = passed
    return buffers, sent


def butterfly(inputs):
    """The sum by pairs that are half as far apart each time."""
    values = [np.array(x, np.float32) for x in inputs]
    power = 2 ** (len(values).bit_length() - 1)
    pairs = len(values) - power
    values = [values[2 * i + 1] + values[2 * i] for i in range(pairs)] + values[2 * pairs :]
    while len(values) > 1:
        half = len(values) // 2
        values = [values[i] + values[i + half] for i in range(half)]
    return values[0]


def attempts(dies_at, peers):
    """`(who takes part, share of its time that it lasts)` of every attempt; 1 for the one that is whole."""
    alive, now, out = list(peers), np.float32(0), []
    while True:
        soon = [dies_at[i] for i in alive if dies_at[i] - now < 1]
        if not soon:
            return [*out, (alive, None)]
        first = min(soon)
        out.append((list(alive), np.float32(first - now)))
        alive, now = [i for i in alive if dies_at[i] > first], first
