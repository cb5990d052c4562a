"""What the tables of ablations leave out, each beside the system with everything.

``table7`` is the paper's: no video, no audio, no descriptions, and histories of 0, 5 and 9 turns beside the whole one.
``smes`` leaves out SMES's cues (Chu et al. 2024), picture or voice, and each step that later ones build on.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from typing import Final

from multimood_core.evaluation import Conditions
from multimood_core.systems import SMES_STEPS, SmesParts


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of a table; without a name, the system with everything."""

    name: str = ""
    video: bool = True
    audio: bool = True
    descriptions: bool = True
    history_turns: int | None = None
    smes: SmesParts = field(default_factory=SmesParts)

    def conditions(self, full: Conditions) -> Conditions:
        """What is given: ``full`` without what this row leaves out."""
        turns = full.history_turns if self.history_turns is None else self.history_turns
        return replace(full, descriptions=full.descriptions and self.descriptions, history_turns=turns)


def _without(step: str) -> SmesParts:
    return SmesParts(steps=tuple(name for name in SMES_STEPS if name != step))


ABLATIONS: Final[dict[str, tuple[Variant, ...]]] = {
    "table7": (
        Variant("no video", video=False),
        Variant("no audio", audio=False),
        Variant("no description", descriptions=False),
        *(Variant(f"history {turns}", history_turns=turns) for turns in (0, 5, 9)),
    ),
    "smes": (
        Variant("no visual cues", video=False, smes=SmesParts(visual=False)),
        Variant("no vocal cues", audio=False, smes=SmesParts(vocal=False)),
        *(
            Variant(f"no {name} step", smes=_without(step))
            for step, name in (
                ("client_emotion", "client emotion"), ("strategy", "strategy"), ("therapist_emotion", "therapist emotion"),
            )
        ),
    ),
}  # fmt: skip


def reason_not_to_run(variant: Variant, args: argparse.Namespace, media: bool, described: bool) -> str | None:
    """Why a row cannot be filled with these data; None where it can.

    Args:
        variant: the row.
        args: the command's.
        media: some turn has a clip.
        described: some turn has a description.
    """
    if variant.smes != SmesParts() and not args.smes:
        return "it leaves out a part of SMES; ask a language model with --smes"
    seen = media and args.video
    if not variant.video and not (seen or (args.smes and described and not args.no_descriptions)):
        return "no turn of these data has a clip, so there is no picture to leave out"
    if not variant.audio and not (media and args.audio):
        return "no turn of these data has a clip, so there is no sound to leave out"
    if not variant.descriptions and (not described or args.no_descriptions):
        return "no turn of these data has a description"
    return None
