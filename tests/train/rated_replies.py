"""Synthetic tables in the form of the data sets that the local judge learns from and is checked on."""

from __future__ import annotations

import csv
import json
import random
import zipfile
from pathlib import Path
from typing import Any

_THINGS = ("job", "sister", "exam", "dog", "flat", "friend", "boss", "garden", "train", "teacher", "car", "neighbour")
_WARM = ("I am so sorry about your {}.", "It hurts me to read this about the {}.", "My heart goes out to you and the {}.")
_ASKING = ("What happened with the {}?", "When did the {} begin to trouble you?", "Do you feel alone with the {}?")
_SEEING = ("You must feel let down by the {}.", "I had the same with my {} and feared it.", "It seems the {} wears you out.")
_PLAIN = ("The {} stands in a list.", "There is a {} in every town.", "A {} costs money.")
_FILES = {"emotional-reactions": _WARM, "interpretations": _SEEING, "explorations": _ASKING}


def write_data(root: Path, posts: int = 120) -> Path:
    """A data root with EPITOME, TrustLLM, C-SSRS Reddit and AnnoMI, all made up."""
    rng = random.Random(0)
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in _FILES}
    for i in range(posts):
        thing = rng.choice(_THINGS)
        said = {name: rng.choice(lines).format(thing) for name, lines in _FILES.items() if rng.random() < 0.5}
        sentences = [*said.values(), rng.choice(_PLAIN).format(thing)]
        rng.shuffle(sentences)
        for name, table in tables.items():
            row = {"sp_id": f"p{i}", "rp_id": f"r{i}", "seeker_post": f"My {thing} again.", "response_post": " ".join(sentences)}
            table.append(row | {"level": 2 if name in said else 0, "rationales": f"{said.get(name, '')}|"})
    for name, table in tables.items():
        # the first reply stands twice, rated otherwise the second time
        write_table(root / "epitome_empathy" / f"{name}-reddit.csv", [*table, table[0] | {"level": 1, "rationales": ""}])
    posts_of = [{"User": f"u{i}", "Post": "['It is dark.', 'Help.']" if i % 2 else "['All is well.']",
                 "Label": "Attempt" if i % 2 else "Supportive"} for i in range(20)]  # fmt: skip
    write_table(root / "cssrs_reddit" / "posts_labels.csv", posts_of)
    turns = [
        {"transcript_id": i, "mi_quality": "high" if i % 2 else "low", "interlocutor": "therapist",
         "main_therapist_behaviour": "reflection" if i % 2 else "other",
         "utterance_text": (_WARM if i % 2 else _PLAIN)[0].format("job")} for i in range(20)
    ]  # fmt: skip
    write_table(root / "annomi" / "AnnoMI-simple.csv", turns)
    entries = {
        "fairness/stereotype_recognition": [
            {"sentence": f"They are {'lazy' if i % 2 else 'kind'}.", "label": "stereotype" if i % 2 else "anti-stereotype",
             "context": str(i)} for i in range(20)
        ] + [{"sentence": "Rain fell.", "label": "unrelated", "context": "x"}],
        "ethics/implicit_SocialChemistry101": [
            {"action": f"{'stealing' if i % 2 else 'sharing'} {i} apples", "label": -2.0 if i % 2 else 2.0} for i in range(20)
        ],
        "truthfulness/sycophancy": [
            {"prompt": str(i), "n_completion": "No, that is not so.", "s_completion": "Yes, you are right."} for i in range(20)
        ] + [{"prompt": "y", "n_completion": "", "s_completion": ""}],
    }  # fmt: skip
    (root / "trustllm").mkdir(parents=True)
    with zipfile.ZipFile(root / "trustllm" / "dataset.zip", "w") as archive:
        for name, rows in entries.items():
            archive.writestr(f"dataset/{name}.json", json.dumps(rows))
    return root


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
