"""Windows of characters, and the character after each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dlsim import checks

CONTEXT = 80  # characters of a window, as in LEAF
MOST_CHARACTERS = 256  # different ones


class Windows(NamedTuple):
    """Training and test windows of several texts."""

    inputs: np.ndarray  # uint8 [M, L]
    labels: np.ndarray  # int32 [M] the character after each
    owners: np.ndarray  # int [M] the place of its text
    test_inputs: np.ndarray
    test_labels: np.ndarray
    test_owners: np.ndarray
    alphabet: str  # character c has the number alphabet.index(c)


def make_windows(
    where: str, texts: Mapping[Any, str], context: int, test_fraction: float, alphabet: str | None
) -> Windows:
    """Every text cut into windows of L + 1 characters, each of which begins with the last of the one before.

    So each character but a text's first is to be said once.  The last `test_fraction` of a text's windows are its test.
    """
    context = checks.integer(where, "context", context, 1)
    checks.known(where, "test_fraction", test_fraction)
    checks.number(where, "test_fraction", test_fraction, 0.0, 1.0, open_minimum=True, open_maximum=True)
    if not isinstance(texts, Mapping) or not all(isinstance(text, str) for text in texts.values()):
        checks.fail(where, "texts", "a dict of strings by client", checks.describe(texts), 'Such as {"me": "..."}.')
    characters = _alphabet(where, texts, alphabet)
    codes = {character: code for code, character in enumerate(characters)}
    empty = np.empty((0, context + 1), np.uint8)
    train, test = [empty], [empty]
    for text in texts.values():
        tokens = np.fromiter((codes[character] for character in text), np.uint8, len(text))
        num = max(len(text) - 1, 0) // context
        cut = tokens[np.arange(num)[:, None] * context + np.arange(context + 1)]
        num_test = min(int(test_fraction * num + 0.5), max(num - 1, 0))
        train.append(cut[: num - num_test])
        test.append(cut[num - num_test :])
    found, held_out = np.concatenate(train), np.concatenate(test)
    if not len(found) or not len(held_out):
        longest = max((len(text) for text in texts.values()), default=0)
        rule = "long enough to train on and to hold some out"
        checks.fail(where, "texts", rule, f"{len(texts)} of up to {longest} characters", "Use a smaller context.")
    places = np.arange(len(texts))
    return Windows(
        inputs=found[:, :-1],
        labels=found[:, -1].astype(np.int32),
        owners=np.repeat(places, [len(rows) for rows in train[1:]]),
        test_inputs=held_out[:, :-1],
        test_labels=held_out[:, -1].astype(np.int32),
        test_owners=np.repeat(places, [len(rows) for rows in test[1:]]),
        alphabet=characters,
    )


def _alphabet(where: str, texts: Mapping[Any, str], given: str | None) -> str:
    used: set[str] = set().union(*texts.values())
    if given is None:
        given = "".join(sorted(used))
    elif len(set(given)) < len(given):
        checks.fail(
            where, "alphabet", "of different characters", f"one of {len(given)} with {len(set(given))} different"
        )
    missing = sorted(used - set(given))
    if missing:
        checks.fail(where, "alphabet", "one that has every character of the texts", f"one without {missing[0]!r}")
    if len(given) > MOST_CHARACTERS:
        checks.fail(where, "texts", f"of at most {MOST_CHARACTERS} different characters", len(given))
    return given
