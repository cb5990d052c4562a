"""What is kept of sessions: nothing without consent, nothing past its time, and nothing once it was deleted."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.audit import verify
from app.clips import Blurrer, picture_file
from app.consent import read_text
from app.demo import demo_turn, draw_face
from app.keeper import Keeper
from app.privacy_api import PREFIX, PrivacyApi
from app.remote import Remote
from app.retention import DAY, Retention
from app.session import Phase, Session
from app.sessions import Sessions
from app.turn_buffer import Picture, TurnBuffer
from app.vault_keys import FILE_VARIABLE, VARIABLE, new_key
from multimood_core.errors import DataError
from multimood_core.face_detector import FaceDetector
from multimood_core.weights import weights_path
from tests.app.conftest import settled
from tests.app.test_turn_buffer import jpeg

SAID = "nobody in the choir speaks to me any more"
PERSON = "Person Seventeen"
ALL = ["transcript", "audio", "video"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, new_key().text)
    (tmp_path / "records").mkdir()
    return tmp_path / "records"


@pytest.fixture
def keeper(sessions: Sessions, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    monkeypatch.setattr("app.keeper.LOOK", 0.02)
    keeper = Keeper(sessions, read_text, folder)
    yield keeper
    keeper.close()


def spoken_turn(session: Session) -> None:
    """A turn of the demo's voice and a drawn face, through the buffer as the page fills it."""
    buffer = session.begin_capture()
    voice = demo_turn(0).waveform
    assert voice is not None
    buffer.add_sound(voice.samples[:8_000], 16_000)
    for i in range(3):
        buffer.add_picture(jpeg(draw_face(0.5, 0.0, i / 10)), i / 10)
    session.end_capture()
    settled(session)


def wait(until: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_without_consent_nothing_is_kept(keeper: Keeper, session: Session, folder: Path) -> None:
    session.type_turn(SAID)
    settled(session)
    spoken_turn(session)
    time.sleep(0.1)
    assert not keeper.has_vault
    assert [path.name for path in folder.iterdir() if path.suffix not in (".lock",)] == []


@pytest.mark.parametrize(
    ("parts", "by", "label"),
    [([], "client", "a"), (["all"], "client", "a"), (["audio"], "x", "a"), (["audio"], "client", " ")],
)
def test_a_consent_is_for_named_parts_of_a_named_person_by_somebody(
    keeper: Keeper, session: Session, parts: list[str], by: str, label: str
) -> None:
    with pytest.raises(DataError, match="Expected"):
        keeper.keep(session, label, parts, by, "anna")
    assert not keeper.has_vault or keeper.kept() == []


def test_what_was_agreed_to_is_kept_encrypted_and_nothing_else(keeper: Keeper, session: Session, folder: Path) -> None:
    spoken_turn(session)  # before the consent
    keeping = keeper.keep(session, PERSON, ["transcript", "audio"], "client", "anna")
    spoken_turn(session)
    session.type_turn(SAID)
    settled(session)
    wait(lambda: "turn-2.flac" in keeper.parts(keeping.id))
    wait(lambda: SAID in json.dumps(keeper.reopen(keeping.id, "anna")))
    assert set(keeper.parts(keeping.id)) == {"transcript", "turn-2.flac"}, "no pictures, and nothing of the turn before"
    found = keeper.reopen(keeping.id, "anna")
    assert found is not None
    assert found["checkpoint"]["sha256"] == session.checkpoint.sha256
    assert found["turns"][2]["client"]["words"] == SAID
    sound, rate = soundfile.read(io.BytesIO(keeper.clip(keeping.id, "turn-2.flac", False, "anna")))
    assert (rate, len(sound)) == (16_000, 8_000)
    written = everything(folder)
    for word in (SAID, PERSON, "choir", "fLaC"):
        assert word.encode() not in written
    consents = {c.part: c for c in keeping.consents.values()}
    text = read_text()
    assert {(c.version, c.sha256, c.by, c.recorded) for c in consents.values()} == {
        (text.version, text.sha256, "client", "anna")
    }
    assert all(c.given.endswith("+00:00") for c in consents.values())


def test_taking_back_stops_capture_and_what_was_queued(keeper: Keeper, session: Session) -> None:
    keeping = keeper.keep(session, PERSON, ALL, "client", "anna")
    spoken_turn(session)
    wait(lambda: "turn-1.webm" in keeper.parts(keeping.id))
    session.begin_capture().add_picture(jpeg(draw_face(0.5, 0.0, 0)), 0.0)
    keeper.revoke(keeping.id, ["video"], "anna")
    assert (session.phase, session.buffer) == (Phase.DECIDING, None), "the open turn is thrown away"
    session.reject()
    spoken_turn(session)
    wait(lambda: "turn-2.flac" in keeper.parts(keeping.id))
    assert "turn-2.webm" not in keeper.parts(keeping.id)
    assert "turn-1.webm" in keeper.parts(keeping.id), "what was kept waits for the second question"
    with pytest.raises(DataError, match="take it back first"):
        keeper.delete(keeping.id, "anna", "audio")
    assert keeper.delete(keeping.id, "anna", "video") == 1
    assert "turn-1.webm" not in keeper.parts(keeping.id)
    again = keeper.find(keeping.id)
    assert again.consents["video"].revoked is not None
    with pytest.raises(DataError, match="No consent stands"):
        keeper.revoke(keeping.id, ["video"], "anna")


def test_a_consent_can_be_taken_back_after_a_restart(
    keeper: Keeper, session: Session, sessions: Sessions, folder: Path
) -> None:
    session.type_turn(SAID)
    settled(session)
    number = keeper.keep(session, PERSON, ["transcript"], "guardian", "anna").id
    keeper.close()
    again = Keeper(sessions, read_text, folder)
    try:
        kept = again.find(number)
        assert (kept.label, kept.consents["transcript"].by, kept.session) == (PERSON, "guardian", None)
        assert SAID in json.dumps(again.reopen(number, "anna"))
        again.revoke(number, ["transcript"], "anna")
        assert again.delete(number, "anna", "transcript") == 1
        assert again.reopen(number, "anna") is None
    finally:
        again.close()


def test_deleting_a_person_leaves_a_line_without_content_and_nothing_else(
    keeper: Keeper, sessions: Sessions, session: Session, folder: Path
) -> None:
    other = sessions.open()
    other.acknowledge()
    first = keeper.keep(session, PERSON, ALL, "client", "anna")
    session.type_turn(SAID)
    settled(session)
    second = keeper.keep(other, PERSON, ["transcript"], "client", "anna")
    third_session = sessions.open()
    third = keeper.keep(third_session, "Somebody Else", ["transcript"], "client", "anna")
    assert first.person == second.person != third.person
    assert first.person not in PERSON
    assert keeper.delete_person(first.person, "anna") == 2
    assert [k.id for k in keeper.kept()] == [third.id]
    assert sessions.find(session.token) is None, "its open session and the memory of it go too"
    assert sessions.find(third_session.token) is third_session
    session.type_turn(SAID)
    settled(session)
    time.sleep(0.1)
    assert [k.id for k in keeper.kept()] == [third.id], "nothing of it comes back"
    assert keeper.vault.names(first.id) == {}
    line = next(e for e in keeper.audit.entries() if e.what == "person.deleted")
    assert dict(line.about) == {"person": first.person, "sessions": 2, "parts": 4, "open": 2}
    log = keeper.audit.path.read_text()
    for word in (PERSON, "Seventeen", SAID, "choir"):
        assert word not in log
    assert verify(keeper.audit.path) == []


def test_what_is_over_is_purged_at_the_start_and_daily(keeper: Keeper, session: Session) -> None:
    session.type_turn(SAID)
    settled(session)
    number = keeper.keep(session, PERSON, ["transcript"], "client", "anna").id
    keeper.vault.set("retention_days", "7")
    wait(lambda: keeper.find(number).version == session.version)
    moment = [time.time() + 6 * DAY]
    retention = Retention(keeper, every=0.02, clock=lambda: moment[0])
    try:
        time.sleep(0.1)
        assert keeper.kept(), "six days are not over"
        moment[0] += 2 * DAY
        wait(lambda: not keeper.vault.sessions())
    finally:
        retention.close()
    assert [e.about["days"] for e in keeper.audit.entries() if e.what == "retention.purged"] == [7]
    with pytest.raises(DataError, match="1 to 3,650"):
        retention.set_days(0)


def test_a_shorter_period_holds_at_once(keeper: Keeper, session: Session) -> None:
    keeper.keep(session, PERSON, ["transcript"], "client", "anna")
    retention = Retention(keeper, clock=lambda: time.time() + 3 * DAY)
    try:
        assert keeper.kept()
        assert retention.set_days(2, "anna") == 1
        assert keeper.kept() == []
    finally:
        retention.close()


def face_pictures(data_dir: Path) -> list[np.ndarray]:
    clip = next(iter(sorted((data_dir / "ravdess_video").rglob("01-01-0*.mp4"))), None)
    if clip is None:
        pytest.skip(f"no clip of a face under {data_dir}")
    with av.open(str(clip)) as container:
        return [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i % 12 == 0][:8]


def encoded(images: list[np.ndarray]) -> bytes:
    return picture_file([Picture(i, i / 10, jpeg(image)) for i, image in enumerate(images)])


@pytest.mark.parametrize("made", [True, False])
def test_covered_faces_are_not_found_any_more(made: bool, request: pytest.FixtureRequest) -> None:
    drawn = [draw_face(0.4, 0.0, i / 10) for i in range(3)]
    images = drawn if made else face_pictures(request.getfixturevalue("data_dir"))
    detector = FaceDetector(weights_path("face-detector"))
    clip = encoded(images)
    with av.open(io.BytesIO(clip)) as container:
        before = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert all(detector.detect(image) for image in before), "there was a face to cover in each"
    with av.open(io.BytesIO(Blurrer()(clip))) as container:
        after = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(after) == len(before)
    assert not [i for i, image in enumerate(after) if detector.detect(image)]
    corner = np.abs(after[0][:24, :24].astype(int) - before[0][:24, :24]).mean()
    assert corner < 12, "what is no face stays"


# -- the requests ------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(sessions: Sessions, keeper: Keeper) -> Iterator[TestClient]:
    retention = Retention(keeper)
    api = PrivacyApi(sessions, keeper, retention, Remote(keeper.audit), read_text)
    yield TestClient(Starlette(routes=api.routes), headers={"x-multimood": "1"})
    retention.close()


def post(client: TestClient, path: str, status: int = 200, **body: Any) -> Any:
    answer = client.post(f"{PREFIX}/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_page_keeps_opens_takes_back_and_deletes(client: TestClient, session: Session) -> None:
    session.type_turn(SAID)
    settled(session)
    assert post(client, "state", session=session.token)["kept"] == []
    found = post(client, "keep", session=session.token, person=PERSON, parts=["transcript"], by="client")
    (one,) = found["kept"]
    assert (one["label"], found["live"]["id"]) == (PERSON, one["id"])
    assert SAID not in json.dumps(found)
    assert SAID in json.dumps(post(client, "session", id=one["id"])["opened"])
    post(client, "delete", 409, id=one["id"], parts=["transcript"])
    post(client, "revoke", id=one["id"], parts=["transcript"])
    assert post(client, "delete", id=one["id"], parts=["transcript"])["deleted"] == 1
    assert post(client, "delete", person=one["person"])["kept"] == []


@pytest.mark.parametrize(
    "name", ["head", "transcript", "../vault.sqlite3", "..%2f..%2fetc%2fpasswd", "turn-1.flac", "x.webm"]
)
def test_a_clip_is_named_exactly_or_not_at_all(client: TestClient, session: Session, name: str) -> None:
    number = post(client, "keep", session=session.token, person=PERSON, parts=["transcript"], by="client")["live"]["id"]
    answer = client.get(f"{PREFIX}/clip/{number}/{name}")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"id": 3}', b'{"id": ["x"]}', b'{"session": 1, "parts": "x"}', b"9" * 70_000]
)
def test_no_body_breaks_a_request(client: TestClient, body: bytes) -> None:
    for path in ("keep", "revoke", "delete", "session", "retention", "remote"):
        assert client.post(f"{PREFIX}/{path}", content=body).status_code in (200, 400, 409, 413)


def test_another_site_s_page_cannot_act(client: TestClient, session: Session) -> None:
    assert client.post(f"{PREFIX}/state", json={}, headers={"x-multimood": "0"}).status_code == 403


def test_the_switch_is_for_the_host_that_was_shown_and_off_is_off_for_all(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MULTIMOOD_JUDGE_MODEL", raising=False)
    assert post(client, "state")["remote"] == []
    monkeypatch.setenv("MULTIMOOD_COMPARE_MODEL", "far-model")
    monkeypatch.setenv("MULTIMOOD_COMPARE_URL", "https://somebody:secret@far.example/v1")
    (one,) = post(client, "state")["remote"]
    assert (one["host"], one["on"], one["uses"][0]["model"]) == ("far.example", False, "far-model")
    assert "look again" in post(client, "remote", 409, on=True, host="elsewhere.example")["error"]
    assert post(client, "remote", on=True, host="far.example")["remote"][0]["on"]
    assert not post(client, "remote", on=False)["remote"][0]["on"]


def test_a_wrong_key_shows_its_sentence_and_nothing_else(
    client: TestClient, keeper: Keeper, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(client, "keep", session=session.token, person=PERSON, parts=["transcript"], by="client")
    keeper.vault.close()
    keeper._vault = None
    monkeypatch.setenv(VARIABLE, new_key().text)
    found = post(client, "state", session=session.token)
    assert (found["key"], found["kept"]) == ("wrong", [])
    assert "bring the right key back" in found["problem"]


def test_a_key_is_made_from_the_page(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "elsewhere" / "vault.key"))
    assert post(client, "state")["key"] == "none"
    post(client, "keep", 409, session=session.token, person=PERSON, parts=["transcript"], by="client")
    assert post(client, "key")["key"] == "made"
    post(client, "key", 409)
    post(client, "keep", session=session.token, person=PERSON, parts=["transcript"], by="client")


def test_an_empty_buffer_keeps_nothing(keeper: Keeper, session: Session) -> None:
    keeping = keeper.keep(session, PERSON, ["audio", "video"], "client", "anna")
    keeper._keep_clips(keeping, 1, TurnBuffer())
    assert keeper.parts(keeping.id) == {}
    assert keeping.problem is None
