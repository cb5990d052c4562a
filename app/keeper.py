"""What is kept of sessions, on the clinician's explicit choice and as long as the client's consent stands.

Nothing is kept unless ``keep`` was called with a consent for that part. The words of a session are then brought up to date
after each change; sound and pictures are kept of turns that end after the consent, never of earlier ones. Each act is
written to the audit log, without content.
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from app.audit import NAME as AUDIT_NAME
from app.audit import Audit
from app.clips import Blurrer, picture_file, sound_file
from app.consent import PARTS, Consent, ConsentText, give, moment
from app.places import records
from app.report import record
from app.session import Phase, Session
from app.sessions import Sessions
from app.turn_buffer import MAX_TURN_SECONDS, TurnBuffer
from app.vault import NAME, Row, Vault
from multimood_core.errors import DataError, MultiMoodError

LOOK: Final = 0.5  # seconds between two looks at what changed
CLIPS_WAITING: Final = 4  # turns whose sound and pictures wait to be encoded; each is held in memory
MAX_NAME: Final = 80
HEAD: Final = "head"
TRANSCRIPT: Final = "transcript"
BLURRED: Final = ".blurred"
_SETTLED: Final = (Phase.READY, Phase.DECIDING)
_SUFFIX: Final = {"audio": ".flac", "video": ".webm"}

log = logging.getLogger("multimood.app")


@dataclass(slots=True)
class Keeping:
    """A kept session: ``id`` and ``person`` are random names, ``label`` is the clinician's own for the person."""

    id: str
    person: str
    label: str
    owner: str
    started: str
    checkpoint: Mapping[str, str]
    consents: dict[str, Consent] = field(default_factory=dict)
    earlier: list[Consent] = field(default_factory=list)
    session: Session | None = None
    version: int = -1
    problem: str | None = None

    def stands(self, part: str) -> bool:
        consent = self.consents.get(part)
        return consent is not None and consent.stands

    def head(self) -> bytes:
        plain = {
            "person": self.person, "label": self.label, "owner": self.owner, "started": self.started,
            "checkpoint": dict(self.checkpoint), "consents": [asdict(c) for c in self.consents.values()],
            "earlier": [asdict(c) for c in self.earlier],
        }  # fmt: skip
        return json.dumps(plain, ensure_ascii=False).encode()


def keeping_of(row: Row, head: bytes) -> Keeping:
    """A kept session as its head says."""
    raw = json.loads(head)
    consents = {c["part"]: Consent(**c) for c in raw["consents"]}
    earlier = [Consent(**c) for c in raw["earlier"]]
    return Keeping(row.id, row.person, raw["label"], row.owner, raw["started"], raw["checkpoint"], consents, earlier)


class Keeper:
    """Keeps, shows and deletes.

    Args:
        sessions: the live ones.
        folder: of vault and audit log; ``places.records()`` where None.
        text: gives the consent's words in force.
    """

    def __init__(self, sessions: Sessions, text: Callable[[], ConsentText], folder: Path | None = None) -> None:
        self._sessions, self._text = sessions, text
        self.folder = folder or records()
        self.audit = Audit(self.folder / AUDIT_NAME)
        self._live: dict[str, Keeping] = {}
        self._lock = threading.RLock()
        self._opening = threading.Lock()
        self._vault: Vault | None = None
        self._blur: Blurrer | None = None
        self._clips: queue.Queue[tuple[Keeping, int, TurnBuffer]] = queue.Queue(CLIPS_WAITING)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="multimood-keeper", daemon=True)
        self._thread.start()

    @property
    def vault(self) -> Vault:
        """The vault, opened when it is first needed.

        Raises:
            VaultError: there is no key, or it is another's.
        """
        with self._opening:
            if self._vault is None:
                self._vault = Vault(self.folder / NAME)
            return self._vault

    @property
    def has_vault(self) -> bool:
        """Whether anything was ever kept; a vault that went away meanwhile is missed, and not taken for none."""
        return self._vault is not None or (self.folder / NAME).exists()

    def close(self) -> None:
        """Brings what is kept up to date, and closes the vault."""
        self._closed.set()
        self._thread.join(timeout=30)
        if self._vault is not None:
            self._vault.close()

    # -- consent ---------------------------------------------------------------------------------------------------

    def keep(self, session: Session, label: str, parts: list[str], by: str, who: str, owner: str = "") -> Keeping:
        """Records the consent and begins to keep.

        Args:
            session: the live session.
            label: the clinician's name or code for the person; the same label is the same person.
            parts: that may be kept.
            by: who agreed.
            who: recorded it.
            owner: the account that may see it again; empty without accounts.

        Raises:
            DataError: no label, part or giver; another person's session.
            VaultError: nothing can be kept.
        """
        label = " ".join(label.split())
        if not 0 < len(label) <= MAX_NAME:
            raise DataError(f"Expected a name or code of the person in 1 to {MAX_NAME} characters, got {len(label)}.")
        consents = give(parts, by, who, self._text())
        vault = self.vault
        with self._lock:
            found = self._live.get(session.token)
            if found is not None and found.label != label:
                raise DataError("This session is kept for another person already; begin a new one for somebody else.")
            if found is None:
                started = session.started.isoformat(timespec="seconds")
                person = self._person(vault, label, owner)
                found = Keeping(secrets.token_hex(8), person, label, owner, started, asdict(session.checkpoint), session=session)
            for part, consent in consents.items():
                about = {"part": part, "version": consent.version, "sha256": consent.sha256, "by": by}
                self.audit.write("consent.given", who, session=found.id, person=found.person, **about)
                if part in found.consents:
                    found.earlier.append(found.consents[part])
                found.consents[part] = consent
            self._save(found)
            self._live[session.token] = found
            session.on_captured = lambda number, buffer: self._taken(session.token, number, buffer)
            sha = found.checkpoint["sha256"]
            self.audit.write("session.kept", who, session=found.id, person=found.person, sha256=sha)
            return found

    def _person(self, vault: Vault, label: str, owner: str) -> str:
        for kept in self.kept():
            if (kept.label, kept.owner) == (label, owner):
                return kept.person
        return secrets.token_hex(8)

    def revoke(self, number: str, parts: list[str], who: str) -> None:
        """Takes consents back: what is being captured stops and is thrown away, and nothing more is kept of these parts.

        What was kept so far stays until it is deleted: that is the client's second question, asked at once.

        Raises:
            DataError: no such session or part.
        """
        with self._lock:
            kept = self.find(number)
            standing = [part for part in parts if kept.stands(part)]
            if not standing:
                raise DataError("No consent stands that could be taken back.")
            if kept.session is not None:
                kept.session.cancel_capture()
            for part in standing:
                kept.consents[part] = kept.consents[part].taken_back()
            # Even where disk or key fail now: in this process the consent stands no more.
            for part in standing:
                self.audit.write("consent.revoked", who, session=kept.id, person=kept.person, part=part)
            self.vault.put(kept.id, kept.person, kept.owner, {HEAD: kept.head()})

    # -- looking ---------------------------------------------------------------------------------------------------

    def of(self, session: Session) -> Keeping | None:
        """How a live session is kept, if it is."""
        with self._lock:
            return self._live.get(session.token)

    def kept(self) -> list[Keeping]:
        """All kept sessions, latest first."""
        if not self.has_vault:
            return []
        with self._lock:
            live = {keeping.id: keeping for keeping in self._live.values()}
            found = []
            for row in self.vault.sessions():
                head = self.vault.get(row.id, HEAD)
                if head is not None:
                    found.append(live.get(row.id) or keeping_of(row, head))
            return found

    def find(self, number: str) -> Keeping:
        """A kept session.

        Raises:
            DataError: there is none of that name.
        """
        for keeping in self.kept():
            if keeping.id == number:
                return keeping
        raise DataError("This session is not kept, or not any more; reload the page.")

    def parts(self, number: str) -> dict[str, int]:
        """Its parts and their bytes."""
        return {name: size for name, size in self.vault.names(number).items() if name != HEAD}

    def reopen(self, number: str, who: str) -> dict[str, Any] | None:
        """The words of a kept session; None where they are not kept."""
        data = self.vault.get(self.find(number).id, TRANSCRIPT)
        self.audit.write("session.opened", who, session=number)
        return json.loads(data) if data is not None else None

    def clip(self, number: str, name: str, blurred: bool, who: str) -> bytes:
        """A kept clip; its faces covered where that is asked for.

        Raises:
            DataError: there is no such clip.
            MediaError: its faces cannot be covered.
        """
        keeping = self.find(number)
        wanted = name + BLURRED if blurred else name
        data = self.vault.get(number, wanted) if name.endswith(tuple(_SUFFIX.values())) else None
        if data is None and blurred and name.endswith(_SUFFIX["video"]) and (whole := self.vault.get(number, name)) is not None:
            self._blur = self._blur or Blurrer()
            data = self._blur(whole)
            self.vault.put(number, keeping.person, keeping.owner, {wanted: data})
        if data is None:
            raise DataError("There is no such clip; reload the page.")
        self.audit.write("session.exported", who, session=number, part=name, blurred=blurred)
        return data

    # -- deleting --------------------------------------------------------------------------------------------------

    def delete(self, number: str, who: str, part: str | None = None) -> int:
        """Deletes a kept session, or one part of it: ``transcript``, ``audio`` or ``video``.

        Returns:
            How many parts were deleted.
        """
        with self._lock:
            keeping = self.find(number)
            if part is not None:
                if part not in PARTS:
                    raise DataError(f"Expected a part of {', '.join(PARTS)}, got another.")
                if keeping.stands(part):
                    raise DataError("The consent to keep this stands; take it back first, or delete the whole session.")
                suffix = _SUFFIX.get(part)
                names = [n for n in self.parts(number) if (suffix and suffix in n) or (n == TRANSCRIPT and part == TRANSCRIPT)]
                count = self.vault.drop(number, names)
                self.audit.write("part.deleted", who, session=number, part=part, count=count)
                return count
            self._forget(keeping)
            count = self.vault.drop(number)
            self.audit.write("session.deleted", who, session=number, parts=count)
            return count

    def delete_person(self, person: str, who: str) -> int:
        """Deletes whatever there is of a person: rows, clips, what was made from them, and open sessions with their memory.

        Returns:
            How many sessions were deleted.
        """
        with self._lock:
            mine = [keeping for keeping in self.kept() if keeping.person == person]
            if not mine:
                raise DataError("There is nothing of this person, or not any more; reload the page.")
            opened = [k.session.token for k in mine if k.session is not None]
            for keeping in mine:
                self._forget(keeping)
            for token in opened:
                self._sessions.close(token)
            count = self.vault.drop_all([keeping.id for keeping in mine])
            self.audit.write("person.deleted", who, person=person, sessions=len(mine), parts=count, open=len(opened))
            return len(mine)

    def _forget(self, keeping: Keeping) -> None:
        """Nothing more is kept of it, whatever is still under way."""
        keeping.consents = {part: consent.taken_back() for part, consent in keeping.consents.items()}
        if keeping.session is not None:
            keeping.session.on_captured = None
            self._live.pop(keeping.session.token, None)

    # -- keeping up to date, on the keeper's own thread ---------------------------------------------------------------

    def _taken(self, token: str, number: int, buffer: TurnBuffer) -> None:
        keeping = self._live.get(token)
        if keeping is None or not (keeping.stands("audio") or keeping.stands("video")):
            return
        try:
            self._clips.put_nowait((keeping, number, buffer))
        except queue.Full:
            keeping.problem = f"Sound and pictures of turn {number} were not kept: too many turns waited for it."

    def _work(self) -> None:
        while not self._closed.wait(LOOK):
            self._once()
        self._once()

    def _once(self) -> None:
        try:
            while not self._clips.empty():
                self._keep_clips(*self._clips.get_nowait())
            with self._lock:
                for keeping in list(self._live.values()):
                    session = keeping.session
                    if session is not None and session.version != keeping.version and session.phase in _SETTLED:
                        self._kept_or_told(keeping, partial(self._save, keeping))
                    if session is not None and self._sessions.find(session.token) is None:
                        del self._live[session.token]
        except Exception:  # the thread has to outlive whatever happens to one session
            log.exception("keeping")

    def _kept_or_told(self, keeping: Keeping, act: Callable[[], None]) -> None:
        try:
            act()
            keeping.problem = None
        except MultiMoodError as error:
            keeping.problem = str(error)

    def _save(self, keeping: Keeping) -> None:
        session = keeping.session
        parts = {HEAD: keeping.head()}
        version = session.version if session is not None else -1
        if session is not None and keeping.stands(TRANSCRIPT):
            parts[TRANSCRIPT] = json.dumps(record(session), ensure_ascii=False).encode()
        self.vault.put(keeping.id, keeping.person, keeping.owner, parts)
        keeping.version = version

    def _keep_clips(self, keeping: Keeping, number: int, buffer: TurnBuffer) -> None:
        def act() -> None:
            made: dict[str, tuple[str, bytes]] = {}
            sound = buffer.latest_sound(MAX_TURN_SECONDS)
            if keeping.stands("audio") and len(sound):
                made["audio"] = (f"turn-{number}{_SUFFIX['audio']}", sound_file(sound))
            pictures = buffer.pictures
            if keeping.stands("video") and pictures:
                made["video"] = (f"turn-{number}{_SUFFIX['video']}", picture_file(pictures))
            with self._lock:  # encoding took its time: what was taken back meanwhile is not kept
                now = {name: data for part, (name, data) in made.items() if keeping.stands(part)}
                if now:
                    self.vault.put(keeping.id, keeping.person, keeping.owner, now)

        self._kept_or_told(keeping, act)


def described(keeping: Keeping, parts: Mapping[str, int]) -> dict[str, Any]:
    """A kept session for the page."""
    return {
        "id": keeping.id, "person": keeping.person, "label": keeping.label, "owner": keeping.owner,
        "started": keeping.started, "checkpoint": dict(keeping.checkpoint),
        "consents": [asdict(c) for c in keeping.consents.values()], "earlier": [asdict(c) for c in keeping.earlier],
        "parts": dict(parts), "open": keeping.session is not None, "problem": keeping.problem, "seen": moment(),
    }  # fmt: skip
