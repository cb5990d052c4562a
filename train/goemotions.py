"""GoEmotions' comments (Demszky et al. 2020) as sentences with one of the seven emotions, in the one turn format.

The 27 emotions are grouped as its authors group them by Ekman's six; surprise and its kin are left out and counted, as are
comments with emotions of two groups. Nothing in it is depression.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Final

from multimood_core.dialogues import Dialogue, DialogueTurn
from multimood_core.errors import DataError
from multimood_core.prompts import clean_text

_GROUPS: Final = {
    "anger": "anger annoyance disapproval",
    "disgust": "disgust",
    "fear": "fear nervousness",
    "joy": "admiration amusement approval caring desire excitement gratitude joy love optimism pride relief",
    "sadness": "sadness disappointment embarrassment grief remorse",
    "neutral": "neutral",
    "": "confusion curiosity realization surprise",
}
_EMOTION: Final = {word: emotion for emotion, words in _GROUPS.items() for word in words.split()}
_FILES: Final = {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"}


def read_goemotions(folder: Path) -> tuple[dict[str, list[Dialogue]], Counter[str]]:
    """The three splits as dialogues of one client turn, and how many comments were left out for which emotions.

    Raises:
        DataError: a file is absent, names an emotion that is none of the 28, or a row has another shape.
    """
    try:
        names = (folder / "labels.txt").read_text(encoding="utf-8").split()
        emotions = [_EMOTION[name] for name in names]
    except (OSError, KeyError) as cause:
        raise DataError(f"Expected GoEmotions' 28 emotions in {folder / 'labels.txt'}: {cause!r}") from cause
    splits: dict[str, list[Dialogue]] = {}
    left_out = Counter[str]()
    for split, file in _FILES.items():
        splits[split] = []
        try:
            with (folder / file).open(encoding="utf-8", newline="") as lines:
                for text, numbers, identifier in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
                    found = {emotions[int(number)] for number in numbers.split(",")}
                    emotion = found.pop()
                    if found or not emotion:
                        left_out[" and ".join(names[int(number)] for number in numbers.split(","))] += 1
                        continue
                    splits[split].append(Dialogue(identifier, split, (DialogueTurn("client", clean_text(text), emotion),)))
        except (OSError, ValueError, IndexError) as cause:
            raise DataError(f"Expected rows of text, emotions' numbers and id in {folder / file}: {cause}") from cause
    return splits, left_out
