"""The door before every route: raw requests of strangers, of other sites, and with paths and addresses in every field."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app import access
from app.build import Served, serving
from app.studies.api import COOKIE
from app.studies.people import People
from app.studies.store import Store
from multimood_core.engine import Engine
from multimood_core.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD = "a long enough one"
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
    ("POST", "/multimood/studies/first"),
    ("GET", "/multimood/studies/static/annotate.js"),
    ("GET", "/assets/index.js"),
    ("GET", "/gradio_api/file=x"),
    ("DELETE", "/"),
    ("GET", "/multimood/sign-out"),
    ("POST", "/multimood/sign-out"),
)


@pytest.fixture(scope="module")
def open_app(engine: Engine) -> Iterator[Served]:
    """On this computer, without accounts."""
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
        People(store).create_first("ada", PASSWORD)
        store.close()
        with serving(engine, port=0, tls=certificate, names=["clinic.example"], accounts=True) as served:
            yield served


def caller(served: Served, certificate: tuple[Path, Path] | None = None, **headers: str) -> httpx.Client:
    verify: Any = ssl.create_default_context(cafile=str(certificate[0])) if certificate else True
    return httpx.Client(base_url=served.url, verify=verify, headers=headers, timeout=60)


def signed_in(served: Served, certificate: tuple[Path, Path]) -> httpx.Client:
    client = caller(served, certificate)
    answer = client.post("/multimood/sign-in", data={"name": "ada", "password": PASSWORD})
    assert answer.status_code == 303, answer.text
    return client


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


def test_guessing_is_slowed_down_and_written_down(locked_app: Served, certificate: tuple[Path, Path]) -> None:
    with caller(locked_app, certificate) as client:
        tries = [{"name": "eve", "password": f"guess {i} of many"} for i in range(7)]
        codes = [client.post("/multimood/sign-in", data=one).status_code for one in tries]
        assert codes == [401] * 5 + [429] * 2
        assert client.post("/multimood/sign-in", content=b"name=" + b"a" * 9000).status_code == 413
    log = locked_app.custody.audit.path.read_text()
    assert log.count("sign-in.refused") == 7
    assert "guess" not in log


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


# -- other sites ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0", ""]
)
def test_a_name_that_is_not_this_computer_s_is_refused(open_app: Served, host: str) -> None:
    with caller(open_app, host=host) as client:
        for path in ("/", "/config", "/multimood/studies/me"):
            assert client.get(path).status_code in (400, 421)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "[::1]:7860"])
def test_this_computer_s_names_are_served(open_app: Served, host: str) -> None:
    with caller(open_app, host=host) as client:
        assert client.get("/config").status_code == 200


def test_a_name_that_was_given_is_served(locked_app: Served, certificate: tuple[Path, Path]) -> None:
    with caller(locked_app, certificate, host="clinic.example") as client:
        assert client.get("/config").status_code == 401
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


@pytest.mark.parametrize("secret", SECRETS, ids=lambda path: path.name)
def test_no_route_gives_a_file_out(open_app: Served, secret: Path) -> None:
    start = secret.read_bytes()[:40]
    kept = open_app.custody.audit.path
    with caller(open_app) as client:
        for spelling in [*spellings(secret), *spellings(kept)]:
            for before in (
                "/gradio_api/file=",
                "/gradio_api/file/",
                "/file=",
                "/static/",
                "/assets/",
                "/gradio_api/proxy=",
                "/svelte/",
                "/multimood/privacy/static/",
                "/multimood/studies/static/",
                "/gradio_api/custom_component/",
            ):
                answer = client.get(before + spelling)
                assert start not in answer.content, before + spelling
                assert b"app.started" not in answer.content, before + spelling
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
