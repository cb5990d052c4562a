"""Accounts, sign-in, roles and invitations.

Passwords are kept as argon2id hashes, session and invitation tokens as SHA-256: the database alone lets nobody in. Failed
sign-ins count for the name and for the address, whether or not such an account exists, and cost the same time.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.studies import store as _store
from app.studies.errors import AbsentError, InputError, RefusedError, SignInError, StudyError, TooManyError
from app.studies.records import expect
from app.studies.schema import account, invitation, sign_in, study, web_session
from app.studies.store import Store

ROLES: Final = ("clinician", "researcher", "annotator", "admin")
RATERS: Final = ("annotator", "clinician")  # who may judge; the others know which system said what
LEADERS: Final = ("researcher", "admin")
LEAST_PASSWORD: Final = 10  # characters; NIST SP 800-63B asks for 8 beside lockout
MOST_PASSWORD: Final = 256
LOCK_AFTER: Final = 5  # failures of one name, counted since it last signed in
ADDRESS_LIMIT: Final = 40  # failures from one address; a study's raters may share one
WINDOW: Final = 15 * 60.0  # seconds in which failures count, and that a lock lasts
SESSION_SECONDS: Final = 14 * 86400.0
INVITATION_SECONDS: Final = 14 * 86400.0
_NAME: Final = re.compile(r"[\w.@+-]{2,64}")
_WRONG: Final = "Name and password do not belong together."


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks."""

    id: int
    name: str
    role: str


def require_role(person: Person | None, roles: Sequence[str]) -> Person:
    """The person, where they may do what is for these roles.

    Raises:
        SignInError: nobody is signed in.
        RefusedError: their role is another.
    """
    if person is None:
        raise SignInError("Please sign in.")
    if person.role not in roles:
        raise RefusedError(f"This is for {', '.join(roles)}; you are signed in as {person.role}.")
    return person


class People:
    """Who may come in, and as what.

    Args:
        store: the database.
        clock: seconds since 1970.
        hasher: of passwords; argon2id at the library's cost where None.
    """

    def __init__(self, store: Store, clock: Callable[[], float] | None = None, hasher: PasswordHasher | None = None) -> None:
        self._store, self._clock = store, clock or _store.now
        self._hasher = hasher or PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    # -- coming in -------------------------------------------------------------------------------------------------

    def any(self) -> bool:
        """Whether there is an account at all."""
        with self._store.read() as connection:
            return connection.execute(select(account.c.id).limit(1)).first() is not None

    def create_first(self, name: str, password: str) -> Person:
        """The first account, an admin.

        Raises:
            RefusedError: there is an account already.
            InputError: name or password cannot be used.
        """
        row = self._new(name, password, "admin")
        with self._store.write() as connection:
            if connection.execute(select(func.count()).select_from(account)).scalar_one():
                raise RefusedError("This MultiMood has accounts already: sign in, or ask for an invitation.")
            made = connection.execute(insert(account).values(row)).inserted_primary_key
        return Person(int(made[0]), row["name"], "admin")  # type: ignore[index]

    def sign_in(self, name: str, password: str, address: str) -> tuple[Person, str]:
        """Checks the password; returns the person and the token of a new session.

        Raises:
            SignInError: they do not belong together, or the account is disabled.
            TooManyError: too many failures of this name or address.
        """
        folded, at = _fold(name)[:64], self._clock()
        self._require_patience(folded, address, at)
        with self._store.read() as connection:
            row = connection.execute(select(account).where(account.c.name == folded)).first()
        good = self._fits(row.password if row else self._nobody, password) and row is not None and row.disabled is None
        with self._store.write() as connection:
            connection.execute(insert(sign_in).values(name=folded, address=address, at=at, succeeded=good))
            if not good or row is None:
                token = ""
            else:
                token = secrets.token_urlsafe(32)
                connection.execute(delete(web_session).where(web_session.c.expires < at))
                values = {"token_sha256": _digest(token), "account_id": row.id, "created": at, "expires": at + SESSION_SECONDS}
                connection.execute(insert(web_session).values(values))
                if self._hasher.check_needs_rehash(row.password):
                    stronger = self._hasher.hash(password)
                    connection.execute(update(account).where(account.c.id == row.id).values(password=stronger))
        if not token or row is None:
            raise SignInError(_WRONG)
        return Person(row.id, row.name, row.role), token

    def _require_patience(self, name: str, address: str, at: float) -> None:
        recent = sign_in.c.at > at - WINDOW
        with self._store.read() as connection:
            last_good = select(func.coalesce(func.max(sign_in.c.id), 0)).where(sign_in.c.name == name, sign_in.c.succeeded)
            since = sign_in.c.id > last_good.scalar_subquery()
            failed = select(func.count()).where(sign_in.c.name == name, ~sign_in.c.succeeded, recent, since)
            of_address = select(func.count()).where(sign_in.c.address == address, ~sign_in.c.succeeded, recent)
            locked = connection.execute(failed).scalar_one() >= LOCK_AFTER
            flooded = connection.execute(of_address).scalar_one() >= ADDRESS_LIMIT
        if locked or flooded:
            raise TooManyError(f"Too many failed attempts; wait {WINDOW / 60:.0f} minutes, or ask the admin.")

    def who(self, token: str, longest: float = SESSION_SECONDS) -> Person | None:
        """Whose session ``token`` is; None where there is none, it has run out, or the account is disabled.

        Args:
            token: of the session.
            longest: seconds after signing in for which it counts here.
        """
        query = (
            select(account.c.id, account.c.name, account.c.role)
            .join(web_session, web_session.c.account_id == account.c.id)
            .where(
                web_session.c.token_sha256 == _digest(token), web_session.c.expires > self._clock(), account.c.disabled.is_(None),
                web_session.c.created > self._clock() - longest,
            )
        )
        with self._store.read() as connection:
            row = connection.execute(query).first()
        return Person(*row) if row else None

    def sign_out(self, token: str) -> None:
        """Ends the session."""
        with self._store.write() as connection:
            connection.execute(delete(web_session).where(web_session.c.token_sha256 == _digest(token)))

    def change_password(self, person: Person, old: str, new: str) -> None:
        """Sets another password and ends every session of the account.

        Raises:
            SignInError: the old one is wrong.
            InputError: the new one cannot be used.
        """
        _require_password(new, person.name)
        with self._store.read() as connection:
            kept = connection.execute(select(account.c.password).where(account.c.id == person.id)).scalar_one()
        if not self._fits(kept, old):
            raise SignInError("The present password is another.")
        with self._store.write() as connection:
            connection.execute(update(account).where(account.c.id == person.id).values(password=self._hasher.hash(new)))
            connection.execute(delete(web_session).where(web_session.c.account_id == person.id))

    # -- invitations -----------------------------------------------------------------------------------------------

    def invite(self, by: Person, role: str, study_id: int | None = None) -> str:
        """The token of a link by which one person makes an account of ``role`` and, for raters, joins the study.

        Raises:
            RefusedError: the inviter may not give that role.
            InputError: no such role, or a study for who does not rate.
        """
        expect(role in ROLES, f"a role of {', '.join(ROLES)}", role)
        if by.role != "admin" and not (by.role == "researcher" and role in RATERS):
            raise RefusedError("Researchers invite annotators and clinicians; other roles are given by the admin.")
        expect(study_id is None or role in RATERS, "a study only for annotators and clinicians", role)
        token, at = secrets.token_urlsafe(24), self._clock()
        with self._store.write() as connection:
            if study_id is not None and connection.execute(select(study.c.id).where(study.c.id == study_id)).first() is None:
                raise AbsentError("There is no such study.")
            values = {"token_sha256": _digest(token), "role": role, "study_id": study_id, "created_by": by.id, "created": at,
                      "expires": at + INVITATION_SECONDS}  # fmt: skip
            connection.execute(insert(invitation).values(values))
        return token

    def accept(
        self, token: str, name: str, password: str, joined: Callable[[Connection, int, int], None]
    ) -> Person:
        """Makes the account of an invitation.

        Args:
            token: of the link.
            name: of the new account.
            password: of it.
            joined: enters the account (second) into the study (third), in the same transaction.

        Raises:
            StudyError: the invitation is used or has run out, or the name is taken.
        """
        with self._store.read() as connection:
            role = self._open_invitation(connection, token).role
        row = self._new(name, password, role)  # slow on purpose, so outside the transaction
        with self._store.write() as connection:
            found = self._open_invitation(connection, token)
            try:
                made = connection.execute(insert(account).values(row)).inserted_primary_key
            except IntegrityError as cause:
                raise StudyError(f"The name {row['name']} is taken; choose another.") from cause
            number = int(made[0])  # type: ignore[index]
            connection.execute(update(invitation).where(invitation.c.id == found.id).values(used_by=number))
            if found.study_id is not None:
                joined(connection, number, found.study_id)
        return Person(number, row["name"], row["role"])

    def _open_invitation(self, connection: Connection, token: str) -> Any:
        found = connection.execute(select(invitation).where(invitation.c.token_sha256 == _digest(token))).first()
        if found is None or found.used_by is not None or found.expires < self._clock():
            raise StudyError("This invitation was used, has run out, or never was; ask for a new one.")
        return found

    # -- the admin's -----------------------------------------------------------------------------------------------

    def listed(self, roles: tuple[str, ...] = ROLES) -> list[dict[str, Any]]:
        """Accounts of these roles, without passwords."""
        query = select(account.c.id, account.c.name, account.c.role, account.c.disabled).where(account.c.role.in_(roles))
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(account.c.name)).all()
        return [{"id": r.id, "name": r.name, "role": r.role, "disabled": r.disabled is not None} for r in rows]

    def set_enabled(self, by: Person, number: int, enabled: bool, left: Callable[[Connection, int], None]) -> None:
        """Disables an account and ends its sessions, or enables it again and forgets its failed sign-ins.

        Args:
            by: an admin.
            number: of the account.
            enabled: what it shall be.
            left: gives back what the account was working on, in the same transaction.

        Raises:
            StudyError: no such account, or one's own.
        """
        if number == by.id:
            raise StudyError("Nobody can disable the account that they are signed in with.")
        with self._store.write() as connection:
            row = connection.execute(select(account.c.name).where(account.c.id == number)).first()
            if row is None:
                raise AbsentError("There is no such account.")
            disabled = None if enabled else self._clock()
            connection.execute(update(account).where(account.c.id == number).values(disabled=disabled))
            if enabled:
                connection.execute(delete(sign_in).where(sign_in.c.name == row.name))
            else:
                connection.execute(delete(web_session).where(web_session.c.account_id == number))
                left(connection, number)

    def _new(self, name: str, password: str, role: str) -> dict[str, Any]:
        folded = _fold(name)
        expect(bool(_NAME.fullmatch(folded)), "a name of 2 to 64 letters, digits or . @ + - _", name)
        _require_password(password, folded)
        return {"name": folded, "role": role, "password": self._hasher.hash(password), "created": self._clock()}

    def _fits(self, kept: str, password: str) -> bool:
        try:
            return len(password) <= MOST_PASSWORD and self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError):
            return False


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKC", name).replace("\x00", "").strip().casefold()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _require_password(password: str, name: str) -> None:
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD or _fold(password) == name or len(set(password)) < 4:
        raise InputError(
            f"Expected a password of {LEAST_PASSWORD} to {MOST_PASSWORD} characters that is not the name and not one "
            "character repeated."
        )
