"""A session as HTML: pure functions of its state. Everything that a person wrote is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from app import alert_view
from app.exchange import Exchange
from app.session import Phase, Session
from multimood_core.conflict import MODALITIES, Conflicts
from multimood_core.labels import EMOTIONS, STRATEGIES
from multimood_core.records import LabelPrediction, Modalities

# Colour-blind-safe, the same in chips, bars, timeline and reports; a word always stands beside the colour.
COLOURS: Final = {
    "anger": "#D55E00",
    "sadness": "#0072B2",
    "disgust": "#117733",
    "depression": "#6A4C93",
    "neutral": "#7F7F7F",
    "joy": "#E69F00",
    "fear": "#CC79A7",
}
ENOUGH: Final = 0.3  # below it the likeliest of seven classes is hardly more than a guess (1/7 = 0.14)
MODES: Final = {
    "used": "used",
    "missing": "not recorded",
    "no_face": "no face in the picture",
    "silent": "no sound",
    "given": "typed",
    "transcribed": "transcribed",
}
SOURCES: Final = {"live": "live", "clip": "clip", "typed": "typed", "demo": "demo"}
DECISIONS: Final = {
    "accepted": "said as suggested",
    "edited": "said in your words",
    "rejected": "not said",
    "unused": "not decided, counts as not said",
    "open": "suggested, not said",
}


def decimal(value: float) -> str:
    """Two digits after the point without the zero before it: .61; 1.0 for certainty."""
    text = f"{value:.2f}"
    return text[1:] if text.startswith("0") else text[:3]


def _dot(emotion: str) -> str:
    return f'<i class="mm-dot" style="background:{COLOURS[emotion]}"></i>'


def _ranked(prediction: LabelPrediction) -> list[tuple[str, float]]:
    return sorted(prediction.probabilities.items(), key=lambda item: -item[1])


# -- the middle: this turn -------------------------------------------------------------------------------------------


def middle(session: Session, seconds: float = 0.0) -> str:
    """The client's words and the suggested reply; what to do where there is none yet.

    Args:
        session: whose turn.
        seconds: how long the model has been at it.
    """
    current = session.current
    problem = f'<p class="mm-problem" role="alert">{escape(session.problem)}</p>' if session.problem else ""
    if session.phase is Phase.LISTENING:
        shown = _hint("Listening", "The live read-out is beside the camera. End the turn, or pause speaking.")
    elif current is None:
        shown = _hint(
            "No turn yet",
            "Start a turn with the camera and microphone, type what the client says, choose a clip, or look at a demo turn.",
        )
    else:
        shown = _client(session, current, seconds) + _therapist(session, current)
    return (
        f'<div data-phase="{session.phase}"><p class="mm-heard" role="status">{_heard(session)}</p>'
        f'<div class="mm-problems">{problem}</div>{shown}</div>'
    )


def _hint(title: str, text: str) -> str:
    return f'<div class="mm-empty"><h2>{title}</h2><p>{text}</p></div>'


def _stage(session: Session) -> str:
    if session.phase is Phase.WAITING:
        return f"in the queue, {f'{session.place} before it' if session.place else 'next'}"
    return session.stage if session.phase is Phase.WORKING else ""


def _heard(session: Session) -> str:
    """What a screen reader says: each stage once and the outcome at its end, not every word as it comes."""
    current = session.current
    if current is None or session.phase is not Phase.DECIDING:
        return escape(_stage(session))
    emotion, strategy = (escape(current.label(task) or "none") for task in ("client_emotion", "strategy"))
    if current.withheld:
        return f"Predicted expression: {emotion}. {alert_view.WITHHELD[current.withheld]}"
    return f"Predicted expression: {emotion}. Suggested strategy: {strategy}. Suggested reply: {escape(current.suggestion)}"


def _client(session: Session, exchange: Exchange, seconds: float) -> str:
    words = escape(exchange.words) if exchange.words else ""
    if exchange.words is None:
        words = '<span class="mm-faint">the words follow</span>'
    elif not exchange.words:
        words = '<span class="mm-faint">no words in this turn</span>'
    length = f" · {exchange.capture.seconds:.0f} s" if exchange.capture else ""
    edited = " · words corrected" if exchange.words_corrected else ""
    return (
        f'<section class="mm-turn"><header><b>client</b> turn {exchange.number} · {SOURCES[exchange.source]}{length}{edited}'
        f'<span class="mm-status">{f"{_stage(session)} · {seconds:.1f} s" if session.busy else ""}</span></header>'
        f'<p class="mm-words" dir="auto">{words}</p>'
        f'<p class="mm-signals">{_signals(exchange, session.guard.safety.conflicts)}</p></section>'
    )


def _signals(exchange: Exchange, conflicts: Conflicts) -> str:
    modalities = exchange.modalities
    if modalities is None:
        return '<span class="mm-faint">words, voice and face follow</span>'
    parts = []
    for name, mode in (("words", modalities.text), ("voice", modalities.audio), ("face", modalities.video)):
        good = mode in ("used", "given", "transcribed")
        shown = f"{name} ✓" if good else f"{name}: {_mode(name, mode)}"
        parts.append(f'<span class="{"mm-good" if good else "mm-part"}">{shown}</span>')
    found = agreement(exchange, conflicts)
    return " ".join(parts) + f' <span class="{"mm-part" if found.startswith("conflicting") else ""}">{found}</span>'


def readings(exchange: Exchange) -> dict[str, Mapping[str, float]]:
    """What each modality shows by itself; the words alone are read when the reply is there."""
    found = dict(exchange.expressions)
    if exchange.words_alone is not None:
        found["words"] = exchange.words_alone.probabilities
    return {name: found[name] for name in MODALITIES if name in found}


def agreement(exchange: Exchange, conflicts: Conflicts) -> str:
    """Whether face, voice and words, each by itself, point to different expressions, in words."""
    pairs = conflicts.pairs(readings(exchange))
    differing = [f"{pair.first} and {pair.second}" for pair in pairs if pair.conflicting]
    if differing:
        return f"conflicting: {', '.join(differing)}"
    return "signals do not conflict" if pairs else ""


def _therapist(session: Session, exchange: Exchange) -> str:
    labels = [exchange.label(task) for task in ("therapist_emotion", "strategy")]
    known = " · ".join(escape(label) for label in labels if label) or '<span class="mm-faint">emotion and strategy follow</span>'
    writing = session.phase is Phase.WORKING and exchange is session.current and bool(exchange.labels)
    text = escape(exchange.said or exchange.suggestion)
    if not text and not session.busy:
        text = '<span class="mm-faint">no reply</span>'
    cursor = '<span class="mm-cursor" aria-hidden="true">▍</span>' if writing and not exchange.withheld else ""
    title = "suggested reply" if exchange.decision in ("open", "rejected", "unused") else "reply"
    if exchange.prepared is not None and title == "suggested reply":
        title = "prepared answer"
    return (
        f'<section class="mm-turn mm-{exchange.decision}"><header><b>{title}</b> {DECISIONS[exchange.decision]}</header>'
        f'<p class="mm-plan">{known}</p>{alert_view.withheld(exchange)}'
        f"{alert_view.prepared(exchange) or _reply(text + cursor)}</section>"
    )


def _reply(text: str) -> str:
    return f'<p class="mm-reply" dir="auto">{text}</p>'


# -- the right: what was predicted -----------------------------------------------------------------------------------


def panel(session: Session) -> str:
    """Labels with probabilities, each a button that corrects; history, seconds and checkpoint under them."""
    exchange = session.current
    if exchange is None or session.phase is Phase.LISTENING:
        empty = Exchange(0, "typed", session.started)
        return _emotions(empty) + _alone(session, empty) + _therapist_emotions(empty) + _strategies(empty) + _facts(session, None)
    parts = (_emotions(exchange), _alone(session, exchange), _therapist_emotions(exchange), _strategies(exchange))
    return "".join(parts) + _facts(session, exchange)


def _bar(exchange: Exchange, task: str, label: str, probability: float | None, key: str = "") -> str:
    width = 0 if probability is None else round(100 * probability)
    colour = f"background:{COLOURS[label]}" if label in COLOURS else ""
    chosen = exchange.corrections.get(task) == label
    predicted = task in exchange.labels and exchange.labels[task].label == label
    state = "mm-chosen" if chosen else "mm-top" if predicted else ""
    number = f'<kbd aria-hidden="true">{key}</kbd>' if key else ""
    value = "" if probability is None else decimal(probability)
    off = "" if probability is not None else " disabled"
    return (
        f'<button type="button" class="mm-bar {state}" data-key="{key}" aria-pressed="{str(chosen).lower()}"{off} '
        f'data-do="correct:{exchange.number}:{task}:{label}" title="set {label}">'
        f'{number}<span class="mm-name">{label}</span>'
        f'<span class="mm-track"><i style="width:{width}%;{colour}"></i></span><span class="mm-value">{value}</span></button>'
    )


def _emotions(exchange: Exchange) -> str:
    prediction = exchange.labels.get("client_emotion")
    bars = "".join(
        _bar(exchange, "client_emotion", name, prediction.probabilities[name] if prediction else None, str(i))
        for i, name in enumerate(EMOTIONS, 1)
    )
    note = ""
    if "client_emotion" in exchange.corrections:
        note = "set by you"
    elif prediction and max(prediction.probabilities.values()) < ENOUGH:
        note = "uncertain: weak signal"
    elif prediction:
        note = "client"
    return _group("predicted expression", note, bars, "mm-client")


def _alone(session: Session, exchange: Exchange) -> str:
    """Face, voice and words each by itself, and which of them conflict."""
    found = readings(exchange)
    pairs = [pair for pair in session.guard.safety.conflicts.pairs(found) if pair.conflicting]
    rows = []
    for name in MODALITIES:
        shown = "\u2013"
        if name in found:
            label, probability = max(found[name].items(), key=lambda item: item[1])
            sure = f"{_dot(label)}{label} {decimal(probability)}"
            shown = sure if probability >= ENOUGH else f"uncertain <small>{label} {decimal(probability)}</small>"
        against = [pair.second if pair.first == name else pair.first for pair in pairs if name in (pair.first, pair.second)]
        flag = f' <span class="mm-part">\u2260 {" and ".join(against)}</span>' if against else ""
        rows.append(f"<dt>{name}</dt><dd>{shown}{flag}</dd>")
    note = "conflicting" if pairs else "no conflict" if len(found) > 1 else ""
    return _group("each by itself", note, f'<dl class="mm-alone">{"".join(rows)}</dl>', "mm-apart")


def _therapist_emotions(exchange: Exchange) -> str:
    prediction = exchange.labels.get("therapist_emotion")
    chosen = exchange.label("therapist_emotion")
    chips = "".join(
        f'<button type="button" class="mm-chip {"mm-on" if name == chosen else ""}" '
        f'aria-pressed="{str(exchange.corrections.get("therapist_emotion") == name).lower()}" '
        f'data-do="correct:{exchange.number}:therapist_emotion:{name}"{"" if prediction else " disabled"}>{_dot(name)}{name}'
        f"<small>{decimal(prediction.probabilities[name]) if prediction else ''}</small></button>"
        for name in EMOTIONS
    )
    note = "set by you" if "therapist_emotion" in exchange.corrections else ""
    return _group("suggested therapist emotion", note, f'<div class="mm-chips">{chips}</div>', "")


def _strategies(exchange: Exchange) -> str:
    prediction = exchange.labels.get("strategy")
    ranked: list[tuple[str, float | None]] = [(name, None) for name in STRATEGIES]
    if prediction:
        ranked = [*_ranked(prediction)]
    mine = exchange.corrections.get("strategy")
    if mine:
        ranked.sort(key=lambda item: item[0] != mine)
    bars = [_bar(exchange, "strategy", name, value) for name, value in ranked]
    top = "".join(bars[:3]) if prediction else '<p class="mm-faint mm-three">the top three follow</p>'
    rest = f'<details><summary>seven more</summary>{"".join(bars[3:])}</details>' if prediction else ""
    return _group("suggested strategy", "set by you" if mine else "", top + rest, "mm-wide")


def _group(title: str, note: str, body: str, name: str) -> str:
    return f'<div class="mm-group {name}"><h2>{title}<span>{escape(note)}</span></h2>{body}</div>'


def _facts(session: Session, exchange: Exchange | None) -> str:
    prediction = exchange.prediction if exchange else None
    rows: list[tuple[str, str]] = []
    if exchange and exchange.modalities:
        rows.append(("modalities", _used(exchange.modalities)))
    if prediction:
        tokens, seconds = prediction.tokens, prediction.seconds
        rows += [
            ("history", f"{tokens.history_text} → {tokens.history_compressed} tokens"),
            ("prompt, reply", f"{tokens.prompt}, {tokens.response} tokens"),
            ("seconds", stage_seconds(seconds)),
        ]
    rows.append(("checkpoint", f"{escape(session.checkpoint.name)} {session.checkpoint.sha256[:8]}"))
    body = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f'<dl class="mm-facts">{body}</dl>'


def _used(modalities: Modalities) -> str:
    good = {"words": modalities.text != "missing", "voice": modalities.audio == "used", "face": modalities.video == "used"}
    return ", ".join(name for name, used in good.items() if used)


def _mode(name: str, mode: str) -> str:
    """A modality's mode in words; words are not recorded, they are heard or typed."""
    return "none" if (name, mode) == ("words", "missing") else MODES[mode]


def used_modalities(modalities: Modalities) -> str:
    """E.g. ``words (transcribed), voice, no face in the picture``."""
    parts = []
    for name, mode in (("words", modalities.text), ("voice", modalities.audio), ("face", modalities.video)):
        if mode == "used":
            parts.append(name)
        else:
            parts.append(f"{name} ({_mode(name, mode)})")
    return ", ".join(parts)


def stage_seconds(seconds: object) -> str:
    """The stages of a turn one after the other."""
    names = {"media": "clip", "asr": "words", "towers": "voice and face", "labels": "labels at", "first_token": "reply at",
             "total": "done at"}  # fmt: skip
    return " · ".join(f"{shown} {getattr(seconds, name):.1f}" for name, shown in names.items() if getattr(seconds, name) >= 0.05)


# -- below: earlier turns --------------------------------------------------------------------------------------------


def earlier(session: Session) -> str:
    """The turns before this one, newest first, each label a click away from being corrected."""
    past = session.exchanges if session.phase is Phase.LISTENING else session.exchanges[:-1]
    if not past:
        return '<p class="mm-faint mm-none">Earlier turns stay here, and their labels can be corrected at any time.</p>'
    return "".join(_earlier_turn(exchange) for exchange in reversed(past))


def _earlier_turn(exchange: Exchange) -> str:
    chips = "".join(
        f'<button type="button" class="mm-mini {_mini_state(exchange, name)}" style="--c:{COLOURS[name]}" '
        f'aria-pressed="{str(exchange.corrections.get("client_emotion") == name).lower()}" '
        f'data-do="correct:{exchange.number}:client_emotion:{name}" title="turn {exchange.number}: set {name}">{name}</button>'
        for name in EMOTIONS
    )
    reply = ""
    if exchange.said:
        strategy = escape(exchange.label("strategy") or "")
        reply = f'<p><b>therapist</b> <bdi>{escape(exchange.said)}</bdi> <small>{strategy}</small></p>'
    else:
        reply = f'<p class="mm-faint">suggested reply {DECISIONS[exchange.decision]}</p>'
    words = f"<bdi>{escape(exchange.words)}</bdi>" if exchange.words else '<span class="mm-faint">no words</span>'
    return (
        f'<article class="mm-past"><p><b>client {exchange.number}</b> {words}</p>'
        f'<div class="mm-minis" role="group" aria-label="expression of turn {exchange.number}">{chips}</div>{reply}</article>'
    )


def _mini_state(exchange: Exchange, name: str) -> str:
    if exchange.corrections.get("client_emotion") == name:
        return "mm-on mm-ring"
    return "mm-on" if exchange.label("client_emotion") == name else ""


# -- at the foot -----------------------------------------------------------------------------------------------------


def timeline(svg: str) -> str:
    """The timeline, which is wider than a small screen and can be moved with the arrow keys."""
    return f'<div class="mm-scroll" tabindex="0" role="group" aria-label="timeline">{svg}</div>'


def notes(session: Session) -> str:
    """The session's notes, newest first."""
    return "".join(
        f'<p><b>{f"after turn {note.after}" if note.after else "before the first turn"}</b> <bdi>{escape(note.text)}</bdi></p>'
        for note in reversed(session.notes)
    )
