"""The prompt (paper, figure 4: emotional chain of thought) in our own wording, and the four lines of the answer.

A prompt is a list of pieces. Only pieces that the software wrote may hold special tokens; what a person typed or said is a
``typed`` piece, cleaned to one line and tokenised so that ``<video>``, ``<|im_end|>`` or ``[OUTPUT FORMAT]`` in it stay
ordinary characters. Nothing else separates data from instructions here, so everything that a person wrote goes that way.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from multimood_core.errors import ModelError
from multimood_core.labels import EMOTIONS, SPEAKERS, STRATEGIES, emotion_in, strategy_in
from multimood_core.records import Context, HistoryTurn

VIDEO_TOKEN: Final = "<video>"
AUDIO_TOKEN: Final = "<audio>"
HISTORY_TOKEN: Final = "<history>"
MEMORY_TOKEN: Final = "<MEM>"
MEDIA_TOKENS: Final = (VIDEO_TOKEN, AUDIO_TOKEN, HISTORY_TOKEN, MEMORY_TOKEN)

CLIENT_LINE: Final = "Client's emotion:"
THERAPIST_LINE: Final = "Therapist's emotion:"
STRATEGY_LINE: Final = "Therapist's strategy:"
RESPONSE_LINE: Final = "Therapist's response:"
LABEL_LINES: Final = ((CLIENT_LINE, EMOTIONS), (THERAPIST_LINE, EMOTIONS), (STRATEGY_LINE, STRATEGIES))

# ChatML, what SmolLM2 and Qwen2 were trained with; used where a tokenizer brings no template of its own.
CHATML: Final = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

STRATEGY_MEANINGS: Final = {
    "open question": "invites the client to tell more in their own words",
    "approval": "affirms the client, their effort or their feelings",
    "self-disclosure": "shares something of the therapist's own experience or feeling",
    "restatement": "says back what the client said, to show and check understanding",
    "interpretation": "offers a deeper meaning or motive behind what the client says or does",
    "advisement": "gives advice or a possible way to deal with the problem",
    "communication skills": "small talk, short signals of listening and everyday courtesy",
    "structuring the therapy": "sets aims, time, rules or the frame of the sessions",
    "guiding the pace and depth of the conversation": "slows, speeds, deepens or redirects the talk",
    "others": "any other support",
}

_SYSTEM_ECOT: Final = (
    "You are an expert in emotional psychology. You analyse the emotional state of a client, predict the emotion with "
    "which a therapist would answer, determine the counselling strategy and write the therapist's reply."
)
_STEPS_ECOT: Final = (
    "Work in four steps. First, understand the client's situation from the problem, the video, the audio, the history and "
    "the words. Second, predict the client's emotion, the therapist's emotion and the therapist's strategy. Third, write an "
    "empathetic reply that carries this emotion and this strategy. Fourth, revise it so that it hurts nobody's feelings."
)
_SYSTEM_BRIEF: Final = "Read the client's emotion, choose the therapist's emotion and strategy, and reply."

# Private-use characters mark where typed pieces stand while the tokenizer's chat template runs; clean_text removes them
# from whatever a person typed, so they cannot be forged.
_MARK: Final = "\ue000{}\ue001"
_MARKED: Final = re.compile("\ue000(\\d+)\ue001")
_INVISIBLE: Final = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# Letters and marks that are not drawn either (Unicode's Default_Ignorable_Code_Point outside the categories above): the
# clinician could not see what is written in them, the tokenizer reads every one.
_NOT_DRAWN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)

# What only the software writes: its answer's line names, and who speaks. The model was trained to go on from these, so a
# forged answer in a client's words would be repeated. The label words that may follow them stay what they are, words.
_LINE_NAME: Final = re.compile(
    "|".join(
        name.removesuffix(":").replace("'", "['\u2019]?").replace(" ", " ?") + " ?[:\uff1a]"
        for name in (CLIENT_LINE, THERAPIST_LINE, STRATEGY_LINE, RESPONSE_LINE)
    ),
    re.IGNORECASE,
)
_SPEAKER: Final = re.compile(rf"\b({'|'.join(SPEAKERS)})( ?\([^()]*\))? ?[:\uff1a]", re.IGNORECASE)
_BRACKETS: Final = str.maketrans("[]", "()")  # square ones hold the prompt's slots and an earlier turn's labels


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the prompt; ``typed`` text came from a person and never becomes a special token."""

    text: str
    typed: bool = False


def whole_text(text: str) -> str:
    """``text`` with each half of a surrogate pair that stands alone replaced: it can be shown, stored and tokenised.

    Such halves come out of JSON (``"\\ud800"``) and command lines; nothing that writes UTF-8 takes them.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def clean_text(text: str) -> str:
    """One line of visible text: NFC, without control, zero-width, bidirectional, private-use and undrawn characters.

    Line breaks become spaces, so that no typed text can begin a line of the prompt or of the answer's format; names of the
    answer's lines go, as do the colon behind a speaker and square brackets, which become round. What is invisible goes
    first: it may stand between characters that compose.
    """
    spaced = _NOT_DRAWN.sub("", re.sub(r"\s", " ", text))
    visible = "".join(c for c in spaced if unicodedata.category(c) not in _INVISIBLE)
    line = " ".join(unicodedata.normalize("NFC", visible).translate(_BRACKETS).split())
    while (shorter := _SPEAKER.sub(r"\1\2", _LINE_NAME.sub(" ", line))) != line:  # what is left can be a name again
        line = " ".join(shorter.split())
    return line


def turn_pieces(turn: HistoryTurn) -> list[Piece]:
    """One utterance unit U_i of the history: role, labels, words (paper, ConvCompressor).

    A label that nobody confirmed carries a question mark, so that the model can trust it less than a gold label.

    Raises:
        ModelError: a speaker or label is none of the closed sets; unlike words they stand in the prompt as they are.
    """
    known = turn.speaker in SPEAKERS and turn.emotion in (None, *EMOTIONS) and turn.strategy in (None, *STRATEGIES)
    if not known:
        raise ModelError(
            f"Expected an earlier turn of client or therapist with labels of MESC's sets, got {turn.speaker!r} with "
            f"{turn.emotion!r} and {turn.strategy!r}; correct the history."
        )
    stated = ((turn.emotion, turn.emotion_confirmed), (turn.strategy, turn.strategy_confirmed))
    labels = ", ".join(label if confirmed else f"{label}?" for label, confirmed in stated if label)
    return [Piece(f"{turn.speaker} [{labels}]: " if labels else f"{turn.speaker}: "), Piece(turn.text, typed=True)]


def prompt_pieces(
    style: str,
    template: Callable[[list[dict[str, str]]], str],
    utterance: str,
    recent: Sequence[HistoryTurn] = (),
    context: Context | None = None,
    descriptions: str = "",
) -> list[Piece]:
    """The prompt up to where the answer begins.

    Args:
        style: ``ecot`` (paper, figure 4, every slot) or ``brief`` (the same slots in few words; empty ones left out).
        template: turns chat messages into the model's own format, the generation prompt included.
        utterance: the client's words.
        recent: the last turns, to stand as text after ``<history>``.
        context: problem type and situation.
        descriptions: what is seen and heard in words, where a data set or another model gives it (SMES).

    Raises:
        ModelError: no such style.
    """
    context = context or Context()
    typed: list[str] = []

    def data(text: str) -> str:
        typed.append(text)
        return _MARK.format(len(typed) - 1)

    turns = "".join("\n" + "".join(data(p.text) if p.typed else p.text for p in turn_pieces(t)) for t in recent)
    if style == "ecot":
        strategies = "; ".join(f"{name}: {STRATEGY_MEANINGS[name]}" for name in STRATEGIES)
        system = _SYSTEM_ECOT
        user = (
            f"[CONTEXT]\nProblem: {data(context.problem) if context.problem else 'not given'}\n"
            f"Situation: {data(context.situation) if context.situation else 'not given'}\n"
            f"[CURRENT TURN]\nVideo: {VIDEO_TOKEN}\nAudio: {AUDIO_TOKEN}\n"
            + (f"Description: {data(descriptions)}\n" if descriptions else "")
            + f"Chat history: {HISTORY_TOKEN}{turns}\nClient: {data(utterance)}\n"
            f"[TASK]\n{_STEPS_ECOT}\nEmotions: {', '.join(EMOTIONS)}.\nStrategies: {strategies}.\n"
            f"[OUTPUT FORMAT]\n{CLIENT_LINE} ...\n{THERAPIST_LINE} ...\n{STRATEGY_LINE} ...\n{RESPONSE_LINE} ..."
        )
    elif style == "brief":
        system = _SYSTEM_BRIEF
        user = (
            (f"Problem: {data(context.problem)}\n" if context.problem else "")
            + (f"Situation: {data(context.situation)}\n" if context.situation else "")
            + (f"Description: {data(descriptions)}\n" if descriptions else "")
            + f"History: {HISTORY_TOKEN}{turns}\nVideo: {VIDEO_TOKEN} Audio: {AUDIO_TOKEN}\nClient: {data(utterance)}"
        )
    else:
        raise ModelError(f"The prompt's style must be ecot or brief, but got {style!r}. Correct `prompt` in the configuration.")
    chat = template([{"role": "system", "content": system}, {"role": "user", "content": user}])
    return _split(chat, typed)


def _split(chat: str, typed: Sequence[str]) -> list[Piece]:
    parts = _MARKED.split(chat)  # text, index, text, index, ..., text
    pieces = [Piece(text) if i % 2 == 0 else Piece(typed[int(text)], typed=True) for i, text in enumerate(parts)]
    return [piece for piece in pieces if piece.text]


def chat_template(tokenizer: Any) -> Callable[[list[dict[str, str]]], str]:
    """The tokenizer's own chat format (ChatML where it has none) as a plain function of the messages."""
    template = tokenizer.chat_template or CHATML

    def apply(messages: list[dict[str, str]]) -> str:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True
        )

    return apply


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """What could be read from freely generated text; None where a line was absent or named no label of its set."""

    client_emotion: str | None
    therapist_emotion: str | None
    strategy: str | None
    response: str | None

    @property
    def complete(self) -> bool:
        return None not in (self.client_emotion, self.therapist_emotion, self.strategy, self.response)


# The rest of the line, or of the next one; not that of another name where this one's is empty.
_LABEL_LINE: Final = r"(?!\W*(?:(?:client|therapist).{0,3}[ _])?(?:emotion|strategy|response)\W*:)([^\n]+)"
_READ: Final = {
    "client_emotion": rf"client.{{0,3}}[ _]emotion\W*?:\W*?{_LABEL_LINE}",
    "therapist_emotion": rf"therapist.{{0,3}}[ _]emotion\W*?:\W*?{_LABEL_LINE}",
    "strategy": rf"strategy\W*?:\W*?{_LABEL_LINE}",
    "response": r"response\W*?:\W*?((?s:.+))",
}


def parse_output(text: str) -> ParsedOutput:
    """Read the four lines from any system's free text, leniently: case, markup, JSON, synonyms and extra words are forgiven."""
    matches = {key: re.search(pattern, text, re.IGNORECASE) for key, pattern in _READ.items()}
    found = {key: match[1].strip(" \t\n*_\"'`[](){}") if match else "" for key, match in matches.items()}
    return ParsedOutput(
        client_emotion=emotion_in(found["client_emotion"]),
        therapist_emotion=emotion_in(found["therapist_emotion"]),
        strategy=strategy_in(found["strategy"]),
        response=found["response"] or None,
    )
