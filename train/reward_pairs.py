"""Pairs for the reward model: a therapist's real reply, and the policy's replies to the same turn that are unlike it.

The policy's replies are written to ``OUT/pairs-*.jsonl``, an item a line, so that a run that was stopped goes on with what
is missing. Dialogues are split, not pairs, so that none is in both parts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rouge_score.rouge_scorer import RougeScorer
from tqdm import tqdm

from multimood_core.errors import DataError
from train.rollouts import Situations, Writer

_ROUGE: Final = RougeScorer(["rougeL"])
_CHUNK: Final = 8  # prompts that are written under together


@dataclass(frozen=True, slots=True)
class Pairs:
    """An item's real reply, and those of the policy that are unlike it; ``index`` is the item's place in its split."""

    index: int
    item: str
    rejected: tuple[str, ...]

    @property
    def dialogue(self) -> str:
        return self.item.rpartition("/")[0]


class PairWriter:
    """Writes the policy's replies to items, and keeps on the disk what is unlike the real reply.

    Args:
        folder: of the run; each process has a file of its own in it.
        writer: of the policy.
        situations: the items.
        settings: what the pairs depend on; pairs that were made under others are refused.
        process: of ``processes``, which share the items.
    """

    def __init__(
        self,
        folder: Path,
        writer: Writer,
        situations: Situations,
        settings: Mapping[str, Any],
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.folder, self.writer, self.situations, self.settings = folder, writer, situations, dict(settings)
        self.process, self.processes = process, processes

    def read(self) -> list[Pairs]:
        """What has been written so far, in the order of the items; a line cut short by a kill is dropped.

        Raises:
            DataError: the pairs were made under other settings.
        """
        found: dict[int, Pairs] = {}
        for path in sorted(self.folder.glob("pairs-*.jsonl")):
            for number, line in enumerate(path.read_text().splitlines()):
                try:
                    raw = json.loads(line)
                except ValueError:
                    continue
                if number:
                    found[raw["index"]] = Pairs(raw["index"], raw["item"], tuple(raw["rejected"]))
                elif raw != self.settings:
                    raise DataError(
                        f"{path} holds pairs made under {raw}, not {self.settings}. Start another run with --out=FOLDER."
                    )
        return [found[index] for index in sorted(found)]

    def write(self, indices: Sequence[int], count: int, likeness: float, seed: int) -> None:
        """Write what is missing of ``indices``, ``count`` replies each."""
        done = {pairs.index for pairs in self.read()}
        missing = [index for index in indices[self.process :: self.processes] if index not in done]
        if not missing:
            return
        path = self.folder / f"pairs-{self.process}.jsonl"
        _drop_cut_line(path)
        with path.open("a") as file:
            if not file.tell():
                file.write(json.dumps(self.settings) + "\n")
            bar = tqdm(total=len(missing), desc="replies", disable=self.process > 0)
            for begin in range(0, len(missing), _CHUNK):
                for pairs in self._chunk(missing[begin : begin + _CHUNK], count, likeness, seed):
                    file.write(json.dumps(asdict(pairs)) + "\n")
                file.flush()
                bar.update(len(missing[begin : begin + _CHUNK]))
            bar.close()

    def _chunk(self, indices: Sequence[int], count: int, likeness: float, seed: int) -> Iterator[Pairs]:
        names = [f"{seed}/pairs/{index}" for index in indices]
        prompts = [self.situations.draw(i, random.Random(name)) for i, name in zip(indices, names, strict=True)]
        for index, group in zip(indices, self.writer.write(prompts, count, names), strict=True):
            reference = group.prompt.situation.reference or ""
            yield Pairs(index, group.prompt.id, unlike(reference, group.replies, likeness))


def _drop_cut_line(path: Path) -> None:
    if path.is_file() and (text := path.read_text()) and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1])


def unlike(reference: str, replies: Sequence[str], likeness: float) -> tuple[str, ...]:
    """The replies, each once and none empty, whose ROUGE-L (F1) to ``reference`` is below ``likeness``."""
    found = dict.fromkeys(reply for reply in replies if reply)
    return tuple(reply for reply in found if _ROUGE.score(reference, reply)["rougeL"].fmeasure < likeness)


def split_pairs(pairs: Sequence[Pairs], part: float) -> tuple[list[Pairs], list[Pairs]]:
    """Pairs to learn from and pairs held out, of different dialogues; which is which follows from the dialogue alone."""
    kept: list[Pairs] = []
    apart: list[Pairs] = []
    for one in pairs:
        (apart if random.Random(f"held-out/{one.dialogue}").random() < part else kept).append(one)
    return kept, apart
