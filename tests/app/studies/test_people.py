"""Who may come in: passwords, lockout, invitations, sessions."""

from __future__ import annotations

import time

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select

from app.studies import people as module
from app.studies import schema
from app.studies.errors import InputError, RefusedError, SignInError, StudyError, TooManyError
from app.studies.people import LOCK_AFTER, People
from app.studies.store import Store
from tests.app.studies.scene import PASSWORD, Scene


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def people(store: Store, clock: Clock, quick_hasher: PasswordHasher) -> People:
    return People(store, clock, quick_hasher)


def test_only_the_first_account_makes_itself(scene: Scene) -> None:
    assert scene.admin.role == "admin"
    with pytest.raises(RefusedError, match="accounts already"):
        scene.people.create_first("second", PASSWORD)


def test_the_database_holds_no_password_and_no_token(scene: Scene, store: Store) -> None:
    invited = scene.people.invite(scene.admin, "annotator")
    _, token = scene.people.sign_in("admin", PASSWORD, "here")
    with store.read() as connection:
        everything = "".join(
            str(row) for table in schema.metadata.sorted_tables for row in connection.execute(select(table)).all()
        )
    assert "$argon2id$" in everything
    for secret in (PASSWORD, token, invited):
        assert secret not in everything


def test_a_password_costs_as_much_to_check_as_the_library_advises() -> None:
    assert PasswordHasher().time_cost >= 3
    assert PasswordHasher().memory_cost >= 64 * 1024


def test_names_are_one_whatever_their_case_and_width(scene: Scene) -> None:
    assert scene.people.sign_in(" ＡＤＭＩＮ ", PASSWORD, "here")[0].id == scene.admin.id
    token = scene.people.invite(scene.admin, "annotator")
    with pytest.raises(StudyError, match="taken"):
        scene.people.accept(token, "Admin", PASSWORD, scene.studies.join)
    assert scene.people.accept(token, "other", PASSWORD, scene.studies.join).name == "other", "a refusal uses no invitation up"


def test_failures_lock_the_name_also_for_the_right_password_until_time_has_passed(scene: Scene, clock: Clock) -> None:
    for _ in range(LOCK_AFTER):
        with pytest.raises(SignInError):
            scene.people.sign_in("admin", "wrong password", "there")
    with pytest.raises(TooManyError, match="15 minutes"):
        scene.people.sign_in("admin", PASSWORD, "here")
    clock.now += module.WINDOW + 1
    assert scene.people.sign_in("admin", PASSWORD, "here")[0] == scene.admin


def test_an_unknown_name_is_refused_and_locked_like_a_known_one(scene: Scene) -> None:
    texts = set()
    for name in ("admin", "nobody"):
        for _ in range(LOCK_AFTER):
            with pytest.raises(SignInError) as raised:
                scene.people.sign_in(name, "wrong password", "there")
            texts.add(str(raised.value))
        with pytest.raises(TooManyError):
            scene.people.sign_in(name, "wrong password", "there")
    assert len(texts) == 1


def test_any_name_is_refused_in_the_same_words(scene: Scene) -> None:
    for name in ("\x00", "x" * 5000, "'; DROP TABLE account; --", "\U0001f600"):
        with pytest.raises(SignInError, match="do not belong"):
            scene.people.sign_in(name, "wrong password", "there")


def test_an_address_that_tries_many_names_is_slowed_down(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ADDRESS_LIMIT", 6)
    for i in range(6):
        with pytest.raises(SignInError):
            scene.people.sign_in(f"name-{i}", "wrong password", "one address")
    with pytest.raises(TooManyError):
        scene.people.sign_in("admin", PASSWORD, "one address")
    assert scene.people.sign_in("admin", PASSWORD, "another address")


def test_sessions_end_by_time_by_leaving_by_a_new_password_and_by_the_admin(scene: Scene, clock: Clock) -> None:
    rater = scene.person("annotator", "anna")

    def fresh() -> str:
        return scene.people.sign_in("anna", PASSWORD, "here")[1]

    token = fresh()
    assert scene.people.who(token) == rater
    scene.people.sign_out(token)
    assert scene.people.who(token) is None
    token = fresh()
    clock.now += module.SESSION_SECONDS + 1
    assert scene.people.who(token) is None
    token = fresh()
    with pytest.raises(SignInError):
        scene.people.change_password(rater, "not it at all", "another long one")
    scene.people.change_password(rater, PASSWORD, "another long one")
    assert scene.people.who(token) is None
    _, token = scene.people.sign_in("anna", "another long one", "here")
    scene.people.set_enabled(scene.admin, rater.id, False, scene.studies.leave_all)
    assert scene.people.who(token) is None
    with pytest.raises(SignInError):
        scene.people.sign_in("anna", "another long one", "here")
    with pytest.raises(StudyError, match="signed in with"):
        scene.people.set_enabled(scene.admin, scene.admin.id, False, scene.studies.leave_all)


def test_an_invitation_makes_one_account_in_time_and_brings_it_into_its_study(scene: Scene, clock: Clock) -> None:
    number = scene.study(items=1)
    token = scene.people.invite(scene.researcher, "annotator", number)
    person = scene.people.accept(token, "anna", PASSWORD, scene.studies.join)
    assert scene.take(person, number).task is not None
    with pytest.raises(StudyError, match="was used"):
        scene.people.accept(token, "bert", PASSWORD, scene.studies.join)
    late = scene.people.invite(scene.admin, "annotator")
    clock.now += module.INVITATION_SECONDS + 1
    with pytest.raises(StudyError, match="run out"):
        scene.people.accept(late, "bert", PASSWORD, scene.studies.join)


def test_a_researcher_cannot_make_researchers(scene: Scene) -> None:
    for role in ("researcher", "admin"):
        with pytest.raises(RefusedError):
            scene.people.invite(scene.researcher, role)


def test_passwords_that_are_guessed_at_once_are_refused(scene: Scene) -> None:
    token = scene.people.invite(scene.admin, "annotator")
    for password in ("short", "anna" * 70, "aaaaaaaaaaaaaa", "annaannaanna"):
        with pytest.raises(InputError, match="password"):
            scene.people.accept(token, "annaannaanna", password, scene.studies.join)


def test_names_that_cannot_be_typed_again_are_refused(scene: Scene) -> None:
    token = scene.people.invite(scene.admin, "annotator")
    for name in ("", "a", "with space", "<b>", "x" * 65):
        with pytest.raises(InputError, match="name"):
            scene.people.accept(token, name, PASSWORD, scene.studies.join)
