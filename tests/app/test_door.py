"""The door before every route: raw requests of strangers, of other sites, and with paths and addresses in every field."""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import ipaddress
import json
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app import access, build
from app.build import Page, Served, serving
from app.compare.api import CompareApi
from app.compare.engines import Engines
from app.evaluate.api import EvaluateApi
from app.evaluate.places import places
from app.remote import Remote
from app.studies.people import People
from app.studies.requests import COOKIE
from app.studies.store import Store
from app.vault_keys import make_key
from app.web import HEADER
from multimood_core.engine import Engine
from multimood_core.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD = "a long enough one"
ACCOUNTS = {"rita": "researcher", "anna": "annotator", "carl": "clinician", "clara": "clinician"}  # beside ada, the admin
# Files that are there, and would be worth reading.
SECRETS = (REPOSITORY / "app.py", REPOSITORY / "requirements.txt", Path("/etc/passwd"))
ROUTES = (
    ("GET", "/"),
    ("GET", "/config"),
    ("GET", "/gradio_api/info"),
    ("POST", "/gradio_api/queue/join"),
    ("GET", "/gradio_api/queue/data?session_hash=x"),
    ("POST", "/gradio_api/upload"),
    ("GET", "/gradio_api/heartbeat/x"),
    ("GET", "/gradio_api/startup-events"),
    ("GET", "/theme.css"),
    ("POST", "/multimood/turn/x"),
    ("POST", "/gradio_api/reset"),
    ("GET", "/multimood/session/x/session.json"),
    ("POST", "/multimood/privacy/state"),
    ("GET", "/multimood/privacy/clip/x/y"),
    ("GET", "/multimood/studies/me"),
    ("GET", "/multimood/compare/choices"),
    ("POST", "/multimood/compare/start"),
    ("GET", "/multimood/evaluate/reports"),
    ("POST", "/multimood/studies/first"),
    ("GET", "/multimood/static/annotate.js"),
    ("GET", "/multimood/studies/list"),
    ("POST", "/multimood/studies/sign-in"),
    ("POST", "/multimood/studies/invitation"),
    ("GET", "/assets/index.js"),
    ("GET", "/gradio_api/file=x"),
    ("DELETE", "/"),
    ("GET", "/multimood/sign-out"),
    ("POST", "/multimood/sign-out"),
)


@pytest.fixture(scope="module")
def open_app(engine: Engine) -> Iterator[Served]:
    """On this computer, without accounts; an upload may have two megabytes, so that a larger one is soon there."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(build, "MAX_UPLOAD", "2mb")
        with serving(engine, port=0) as served:
            yield served


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "multimood test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def locked_app(
    engine: Engine, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """As it is served to others: encrypted, and with accounts."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(
            "MULTIMOOD_DATABASE_URL", f"sqlite:///{tmp_path_factory.mktemp('accounts') / 'studies.sqlite3'}"
        )
        quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        environment.setattr("app.studies.people.PasswordHasher", lambda: quick)
        with (
            pytest.raises(DataError, match="app.access admin"),
            serving(engine, port=0, tls=certificate, accounts=True),
        ):
            pass
        store = Store()
        people = People(store)
        admin = people.create_first("ada", PASSWORD)
        for name, role in ACCOUNTS.items():
            people.accept(people.invite(admin, role), name, PASSWORD, lambda *_: None)
        store.close()
        with serving(engine, port=0, tls=certificate, names=["clinic.example"], accounts=True) as served:
            yield served


def caller(served: Served, certificate: tuple[Path, Path] | None = None, **headers: str) -> httpx.Client:
    verify: Any = ssl.create_default_context(cafile=str(certificate[0])) if certificate else True
    return httpx.Client(base_url=served.url, verify=verify, headers=headers, timeout=60)


@contextmanager
def signed_in(served: Served, certificate: tuple[Path, Path], name: str = "ada") -> Iterator[httpx.Client]:
    with caller(served, certificate, **{HEADER: "1"}) as client:
        answer = client.post("/multimood/sign-in", data={"name": name, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        yield client


# -- accounts ------------------------------------------------------------------------------------------------------------


def test_a_stranger_sees_the_sign_in_page_and_nothing_else(locked_app: Served, certificate: tuple[Path, Path]) -> None:
    with caller(locked_app, certificate) as client:
        for method, path in ROUTES:
            answer = client.request(method, path)
            assert answer.status_code in (401, 404), f"{method} {path}: {answer.status_code}"
            assert "gradio" not in answer.text.lower(), path
            assert answer.headers["cache-control"] == "no-store"
        page = client.get("/")
        assert "<form" in page.text
        assert "script" not in page.text
        for token in ("", "x" * 43, "null"):
            assert client.get("/config", cookies={COOKIE: token}).status_code == 401


def test_who_signs_in_comes_in_by_a_cookie_that_no_script_and_no_plain_line_sees(
    locked_app: Served, certificate: tuple[Path, Path]
) -> None:
    with caller(locked_app, certificate) as client:
        answer = client.post("/multimood/sign-in", data={"name": "ada", "password": PASSWORD})
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "Secure", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
        assert "max-age=" in answer.headers["strict-transport-security"]
        assert client.get("/config").status_code == 200
        state = client.post("/multimood/privacy/state", json={}, headers={"x-multimood": "1"}).json()
        assert (state["who"], state["admin"]) == ("ada", True)
        token = client.cookies[COOKIE]
        assert client.post("/multimood/sign-out").status_code == 303
        assert client.get("/config", cookies={COOKIE: token}).status_code == 401, "the server has forgotten it as well"
    events = [(e.who, e.what) for e in locked_app.custody.audit.entries()]
    assert ("ada", "sign-in.succeeded") in events
    assert ("ada", "sign-out") in events


def test_a_session_ends_after_a_working_day(
    locked_app: Served, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with signed_in(locked_app, certificate) as client:
        assert client.get("/config").status_code == 200
        monkeypatch.setattr(access, "LONGEST", -1.0)
        assert client.get("/config").status_code == 401


# -- roles, and who was invited --------------------------------------------------------------------------------------------


def test_raters_do_not_see_who_is_who_in_other_tabs(
    locked_app: Served, certificate: tuple[Path, Path], engine: Engine
) -> None:
    """Every request of Compare, Evaluate and Runs, by each role: a rater who asked could tell which system said what."""
    compare = CompareApi(locked_app.sessions, Engines(engine), Remote(locked_app.custody.audit))
    routes: list[Any] = [*compare.routes, *EvaluateApi(places()).routes]
    paths = [
        (method, re.sub(r"{[^}]*:int}", "1", re.sub(r"{\w+}", "x", route.path)))
        for route in routes
        for method in route.methods - {"HEAD"}
    ]
    assert len(paths) > 20
    for name in ("anna", "carl", "rita"):
        with signed_in(locked_app, certificate, name) as client:
            for method, path in paths:
                answer = client.request(method, path, json={} if method == "POST" else None)
                if name in ("anna", "carl"):
                    assert answer.status_code == 403, f"{name} {method} {path}: {answer.status_code}"
                    assert answer.json()["error"].startswith("This is for researcher, admin;")
                else:
                    assert answer.status_code not in (401, 403), f"{name} {method} {path}: {answer.text}"


def test_an_invitation_is_accepted_through_the_door_and_nothing_else_is_passed(
    locked_app: Served, certificate: tuple[Path, Path]
) -> None:
    with signed_in(locked_app, certificate) as admin:
        token = admin.post("/multimood/studies/invite", json={"role": "annotator"}).json()["token"]
    mail = {"sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site"}
    sent = {"token": token, "name": "ingo", "password": PASSWORD}
    with caller(locked_app, certificate) as stranger:
        page = stranger.get(access.INVITATION, headers=mail)
        assert (page.status_code, "<form" in page.text, "gradio" in page.text) == (200, True, False)
        assert stranger.get("/multimood/static/invitation.js").status_code == 200
        for path in ("/multimood/static/annotate.js", access.INVITATION + "/x", access.INVITATION + "/../list"):
            assert stranger.get(path).status_code == 401, path
        assert stranger.get("/multimood/studies/accept").status_code == 401
        assert stranger.post("/multimood/studies/accept", json=sent).status_code == 403, "without our page's header"
        stranger.headers[HEADER] = "1"
        assert stranger.post("/multimood/studies/accept", json=sent | {"token": "x" * 32}).status_code == 409
        assert stranger.get("/config").status_code == 401
        assert stranger.post("/multimood/studies/accept", json=sent).status_code == 200
        assert stranger.get("/config").status_code == 200, "who has accepted is in"
        assert stranger.post("/multimood/studies/accept", json=sent | {"name": "igor"}).status_code == 409


def test_another_clinician_s_kept_sessions_are_neither_shown_nor_deleted(
    locked_app: Served, certificate: tuple[Path, Path]
) -> None:
    keeper = locked_app.custody.keeper
    if not keeper.has_vault:
        make_key("file", keeper.folder)
    session = locked_app.sessions.open()
    kept = keeper.keep(session, "Person Nine", ["transcript"], "client", "carl", "carl")

    def seen(client: httpx.Client) -> list[str]:
        return [one["id"] for one in client.post("/multimood/privacy/state", json={}).json()["kept"]]

    with signed_in(locked_app, certificate, "clara") as other:
        assert kept.id not in seen(other)
        for path, body in (
            ("delete", {"id": kept.id}),
            ("delete", {"person": kept.person}),
            ("delete", {"id": kept.id, "parts": ["transcript"]}),
            ("revoke", {"id": kept.id, "parts": ["transcript"]}),
            ("session", {"id": kept.id}),
            ("retention", {"days": 1}),
        ):
            answer = other.post(f"/multimood/privacy/{path}", json=body)
            assert answer.status_code == 409, f"{path}: {answer.text}"
            assert "Person Nine" not in answer.text
        assert other.get(f"/multimood/privacy/clip/{kept.id}/turn-1.flac").status_code == 404
    assert keeper.find(kept.id).stands("transcript")
    with signed_in(locked_app, certificate) as admin:
        assert kept.id in seen(admin)
    with signed_in(locked_app, certificate, "carl") as owner:
        assert kept.id in seen(owner)
        assert owner.post("/multimood/privacy/delete", json={"person": kept.person}).json()["deleted"] == 1
        assert kept.id not in seen(owner)


def test_accounts_that_cannot_be_looked_up_let_nobody_in_until_they_can(
    locked_app: Served, certificate: tuple[Path, Path]
) -> None:
    path = Path(os.environ["MULTIMOOD_DATABASE_URL"].removeprefix("sqlite:///"))
    with signed_in(locked_app, certificate) as client:
        moved = path.rename(path.with_name("moved"))
        answer = client.get("/config")
        assert (answer.status_code, "The database is gone" in answer.json()["error"]) == (503, True)
        moved.rename(path)
        assert client.get("/config").status_code == 200


def test_guessing_is_slowed_down_and_written_down(locked_app: Served, certificate: tuple[Path, Path]) -> None:
    log = locked_app.custody.audit.path
    before = log.read_text().count("sign-in.refused")
    with caller(locked_app, certificate) as client:
        tries = [{"name": "eve", "password": f"guess {i} of many"} for i in range(7)]
        codes = [client.post("/multimood/sign-in", data=one).status_code for one in tries]
        assert codes == [401] * 5 + [429] * 2
        assert client.post("/multimood/sign-in", content=b"name=" + b"a" * 9000).status_code == 413
    assert log.read_text().count("sign-in.refused") == before + 7
    assert "guess" not in log.read_text()


def test_a_websocket_is_closed_to_strangers(tmp_path: Path) -> None:
    answers: list[Any] = []

    async def reached(scope: Any, receive: Any, send: Any) -> None:
        answers.append("reached")

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        answers.append(message["type"])

    scope = {
        "type": "websocket",
        "path": "/gradio_api/queue/join",
        "headers": [(b"host", b"127.0.0.1")],
        "query_string": b"",
        "scheme": "wss",
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
    }
    store = Store(f"sqlite:///{tmp_path / 'studies.sqlite3'}")
    try:
        asyncio.run(access.Door(reached, people=People(store))(scope, receive, send))
    finally:
        store.close()
    assert answers == ["websocket.close"]


# -- what the browser is told -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/config", "/multimood/static/live.js", "/multimood/session/x/y", "/monitoring"])
@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
def test_every_answer_keeps_the_page_to_this_server(open_app: Served, path: str, host: str) -> None:
    """Also those of the door: no frame around the page, no script, picture or connection of another host, no guessed type."""
    with caller(open_app, host=host) as client:
        headers = client.get(path).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert (policy["frame-ancestors"], policy["object-src"], policy["form-action"]) == ("'none'", "'none'", "'self'")
    assert not [rule for rule in policy.values() if re.search(r"\*|http|\.", rule)]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "geolocation=()" in headers["permissions-policy"]


# -- other sites ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0", ""]
)
def test_a_name_that_is_not_this_computer_s_is_refused(open_app: Served, host: str) -> None:
    with caller(open_app, host=host) as client:
        for path in ("/", "/config", "/multimood/studies/me", "/multimood/compare/choices", "/multimood/evaluate/reports"):
            assert client.get(path).status_code in (400, 421)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:7860"])
def test_this_computer_s_names_are_served(open_app: Served, host: str) -> None:
    with caller(open_app, host=host) as client:
        assert client.get("/config").status_code == 200


def test_a_name_that_was_given_is_served(locked_app: Served, certificate: tuple[Path, Path]) -> None:
    with caller(locked_app, certificate, host="clinic.example", **{HEADER: "1"}) as client:
        assert client.get("/config").status_code == 401
        client.post("/multimood/sign-in", data={"name": "rita", "password": PASSWORD})
        for path in ("/config", "/multimood/compare/choices", "/multimood/evaluate/reports", "/multimood/evaluate/runs"):
            assert client.get(path).status_code == 200, path
    with caller(locked_app, certificate, host="clinic.example.evil.example") as client:
        assert client.get("/config").status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_another_site_s_request_is_refused(open_app: Served, headers: dict[str, str]) -> None:
    with caller(open_app, **headers) as client:
        for method, path in ROUTES[1:]:
            assert client.request(method, path).status_code in (403, 404), path
        opened = {"sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site"}
        assert client.get("/multimood/session/x/session.json", headers=opened).status_code == 403


# -- files and addresses -------------------------------------------------------------------------------------------------


def spellings(path: Path) -> list[str]:
    plain = str(path)
    return [
        plain,
        f"file://{plain}",
        "../" * 12 + plain.lstrip("/"),
        "..%2f" * 12 + plain.lstrip("/").replace("/", "%2f"),
        "%2e%2e/" * 12 + plain.lstrip("/"),
        f"//{plain}",
        plain.replace("/", "\\"),
    ]


@pytest.mark.parametrize("secret", [*SECRETS, None], ids=lambda path: path.name if path else "audit log")
def test_no_route_gives_a_file_out(open_app: Served, secret: Path | None) -> None:
    wanted = secret or open_app.custody.audit.path
    start = wanted.read_bytes()[:40]
    with caller(open_app) as client:
        for spelling in spellings(wanted):
            for before in (
                "/gradio_api/file=",
                "/gradio_api/file/",
                "/file=",
                "/static/",
                "/assets/",
                "/gradio_api/proxy=",
                "/svelte/",
                "/multimood/static/",
                "/gradio_api/custom_component/",
            ):
                answer = client.get(before + spelling)
                assert start not in answer.content, before + spelling
                assert answer.status_code >= 400, before + spelling


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/run/predict",
        "/gradio_api/api/predict",
        "/gradio_api/call/open",
        "/gradio_api/vibe-edit/",
        "/gradio_api/process_recording",
        "/gradio_api/deep_link",
        "/monitoring",
        "/gradio_api/openapi.json",
        "/gradio_api/stream/x",
        "/gradio_api/component_server",
        "/gradio_api/dev/reload",
    ],
)
def test_routes_that_the_page_does_not_use_answer_nobody(open_app: Served, path: str) -> None:
    with caller(open_app) as client:
        assert client.get(path).status_code == client.post(path, json={}).status_code == 404


def heard(client: httpx.Client, index: int, data: list[Any]) -> str:
    """Calls an event as the page does; returns all that came back."""
    name = f"raw{index}{abs(hash(json.dumps(data)))}"
    joined = client.post("/gradio_api/queue/join", json={"data": data, "fn_index": index, "session_hash": name})
    if joined.status_code != 200:
        return joined.text
    said = ""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": name}) as answer:
        for line in answer.iter_lines():
            said += line
            if "process_completed" in line or "unexpected_error" in line:
                break
    return said


def test_a_path_or_an_address_in_a_field_reads_nothing(open_app: Served, tmp_path: Path) -> None:
    """A file beside every upload, and another one, are offered to the event that takes a clip, and to fields of text."""
    session = open_app.sessions.open()
    session.acknowledge()
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret of the house")
    with caller(open_app) as client:
        config = client.get("/config").json()
        by_name = {c["props"].get("elem_id"): c["id"] for c in config["components"]}

        def event(name: str) -> int:
            return next(d["id"] for d in config["dependencies"] if any(t[0] == by_name[name] for t in d["targets"]))

        asked = 0
        for target in (secret, SECRETS[0], open_app.custody.audit.path):
            for path in spellings(target)[:3]:
                meta = {"_type": "gradio.FileData"}
                whole = {"path": path, "url": f"file://{path}", "orig_name": "a.mp4", "meta": meta}
                far = {"path": "x", "url": "http://192.0.2.1/a.mp4", "meta": meta}
                for payload in (whole, far, path):
                    said = heard(client, event("mm-clip"), [session.token, payload])
                    asked += 1
                    assert "secret of the house" not in said
        for field in ("mm-typed", "mm-note"):
            said = heard(client, event(field), [session.token, str(secret)])
            assert "secret of the house" not in said
        assert asked == 27
    assert secret.exists(), "what is no upload is not deleted either"
    assert all(path.exists() for path in SECRETS)
    assert not [e for e in session.exchanges if e.source == "clip"]


@pytest.mark.parametrize(
    "name", ["../../evil.mp4", "/etc/cron.d/evil", "..\\evil", "a" * 300 + ".mp4", "x\x00.mp4", "con.mp4", "-rf"]
)
def test_an_upload_stays_in_its_folder_whatever_its_name(open_app: Served, name: str) -> None:
    folder = Path(os.environ["GRADIO_TEMP_DIR"]).resolve()
    assert folder.stat().st_mode & 0o077 == 0, "of this user alone"
    assert not folder.is_relative_to(REPOSITORY)
    with caller(open_app) as client:
        answer = client.post("/gradio_api/upload", files={"files": (name, b"no clip")})
    if answer.status_code == 200:
        for path in answer.json():
            assert Path(path).resolve().is_relative_to(folder)
    assert not Path("/etc/cron.d/evil").exists()


def test_an_upload_that_is_too_large_is_refused(open_app: Served) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
        for _ in range(3):
            yield bytes(2**20)
        yield b"\r\n--b--\r\n"

    with caller(open_app) as client:
        answer = client.post(
            "/gradio_api/upload", content=endless(), headers={"content-type": "multipart/form-data; boundary=b"}
        )
    assert answer.status_code == 413


def test_sharing_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="share=True"):
        Page().launch(share=True)
    spec = importlib.util.spec_from_file_location("app_command", REPOSITORY / "app.py")
    assert spec is not None
    assert spec.loader is not None
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    (tmp_path / "c.pem").write_text("")
    for options, told in (
        (["--share"], "not shared"),
        (["--tls-cert", str(tmp_path / "c.pem")], "together"),
        (["--host", "0.0.0.0", "--tls-cert", "none", "--tls-key", "none"], "got none there"),
    ):
        assert command.main(options) == 2
        assert told in capsys.readouterr().err
