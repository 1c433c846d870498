"""Words of a text as they are said, and decoys: other words of the same length."""

import re
from collections.abc import Callable, Sequence
from importlib import resources

import numpy as np

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spoken(text: str) -> list[str]:
    """Lower-case words without punctuation; whole numbers below a million as words: "It's 21." -> it's twenty one."""
    return [word for piece in re.findall(r"[a-z']+|\d+", _plain(text)) for word in _said(piece.strip("'")) if word]


def _plain(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3})", "", text.lower().replace("’", "'"))


def _said(piece: str) -> list[str]:
    if not piece.isdigit():
        return [piece]
    number = int(piece)
    return number_words(number) if number < 1_000_000 else [_ONES[int(digit)] for digit in piece]


def number_words(number: int) -> list[str]:
    """0..999999 in words."""
    if number < 20:
        return [_ONES[number]]
    if number < 100:
        return [_TENS[number // 10 - 2], *(number_words(number % 10) if number % 10 else [])]
    unit, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    return [*number_words(number // unit), name, *(number_words(number % unit) if number % unit else [])]


def decoys(words: Sequence[str], count: int, phones: Callable[[str], int], rng: np.random.Generator) -> list[list[str]]:
    """`count` random texts: for every word another common English one with as many phones, or nearly; none of the text's."""
    by_length: dict[int, list[str]] = {}
    for word in common_words():
        if word not in words:
            by_length.setdefault(phones(word), []).append(word)
    by_length.pop(0, None)
    near = {n: by_length[min(by_length, key=lambda other: abs(other - n))] for n in {phones(word) for word in words}}
    return [[str(rng.choice(near[phones(word)])) for word in words] for _ in range(count)]


def common_words() -> list[str]:
    """Three thousand common English words."""
    return (resources.files("clearline.lab.judge") / "decoy_words.txt").read_text().split()
