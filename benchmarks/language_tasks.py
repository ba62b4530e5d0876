"""Prompts whose answers are known, with the token that a right explanation points at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """A prompt, the token that comes next, the one that it is explained against, and the words that decide it.

    Attributes:
        reason: the text in the prompt where relevance belongs, with the space before it.
    """

    text: str
    answer: str
    reason: str
    against: str | None = None


NAMES = [("Mary", "John"), ("Anna", "Tom"), ("Emma", "James"), ("Sarah", "David")]
SCENES = [
    "When {a} and {b} went to the store, {b} gave a bottle of milk to",
    "When {b} and {a} got a snack at the house, {b} decided to give it to",
    "Then, {a} and {b} were working at the office. {b} handed a book to",
    "After {b} and {a} had lunch at the school, {b} passed the ball to",
    "While {a} and {b} were walking in the park, {b} offered a drink to",
]
COUNTRIES = {
    "France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "Greece": "Athens", "Egypt": "Cairo", "Portugal": "Lisbon", "Austria": "Vienna",
    "Ireland": "Dublin", "Poland": "Warsaw", "Cuba": "Havana", "Kenya": "Nairobi", "Peru": "Lima", "Canada": "Ottawa",
    "Sweden": "Stockholm", "Turkey": "Ankara", "Norway": "Oslo",
}  # fmt: skip
WORDS = [
    "apple", "river", "stone", "cloud", "table", "music", "garden", "window", "bridge", "paper", "silver", "forest",
    "winter", "candle", "market", "mirror", "engine", "yellow", "island", "bottle",
]  # fmt: skip
SUBJECTS = [("key", "keys"), ("dog", "dogs"), ("author", "authors"), ("picture", "pictures"), ("road", "roads")]
ATTRACTORS = [("cabinet", "cabinets"), ("house", "houses")]


def tasks() -> dict[str, list[Prompt]]:
    """All tasks by name, 20 prompts each."""
    made = {
        "indirect objects": indirect_objects,
        "capitals": capitals,
        "induction": induction,
        "agreement": agreement,
    }
    return {name: list(make()) for name, make in made.items()}


def indirect_objects() -> Iterator[Prompt]:
    """Who gets it is the name that was said once."""
    for scene in SCENES:
        for a, b in NAMES:
            yield Prompt(scene.format(a=a, b=b), f" {a}", a, f" {b}")


def capitals() -> Iterator[Prompt]:
    for country, city in COUNTRIES.items():
        yield Prompt(f"The capital of {country} is", f" {city}", country)


def induction() -> Iterator[Prompt]:
    """Eight words and their beginning again: next is what came next before."""
    for i in range(20):
        row = [WORDS[(i + 3 * k) % 20] for k in range(8)]
        again = 3 + i % 4
        yield Prompt(" ".join([*row, *row[:again]]), f" {row[again]}", row[again])


def agreement() -> Iterator[Prompt]:
    """The verb agrees with the subject, and not with the noun before it, which has the other number."""
    for one, many in SUBJECTS:
        for near, nears in ATTRACTORS:
            yield Prompt(f"The {one} near the {nears}", " is", one, " are")
            yield Prompt(f"The {many} near the {near}", " are", many, " is")


def places(tokenizer: Any, prompt: Prompt) -> tuple[list[int], list[bool]]:
    """The prompt's ids, and which of its tokens are the reason."""
    encoded = tokenizer(prompt.text, return_offsets_mapping=True)
    start = prompt.text.index(prompt.reason)
    stop = start + len(prompt.reason)
    touched = [first < stop and last > start for first, last in encoded["offset_mapping"]]
    assert any(touched), prompt
    return encoded["input_ids"], touched


def token(tokenizer: Any, text: str) -> int:
    """The first token of a text."""
    return int(tokenizer(text, add_special_tokens=False)["input_ids"][0])
