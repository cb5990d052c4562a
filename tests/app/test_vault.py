"""What is kept of people: unreadable without its key, whole after a crash, and under another key once it was rotated."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backend
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.audit import Audit, verify
from app.vault import NAME, Vault, main, rotate
from app.vault_keys import FILE_VARIABLE, VARIABLE, Keys, NoKeyError, VaultError, find_keys, new_key

SAID = b"they do not know that I cry in the car"
COMMIT = """
import sys
from pathlib import Path
from app.vault import Vault, rotate
path, what = Path(sys.argv[1]), sys.argv[2]
print("begun", flush=True)
if what == "rotate":
    rotate(path)
else:
    vault = Vault(path)
    for number in range(10**6):
        vault.put("s0", "p0", "", {"a": b"%06d" % number + b"a" * 400_000, "b": b"%06d" % number + b"b" * 400_000})
        print(number, flush=True)
"""

FULL = """
import json, resource, signal, sys
from pathlib import Path
from app.vault import Vault
from app.vault_keys import VaultError
path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # what is past the limit fails as on a full disk
vault, kept, told = Vault(path), 0, ""
vault.put("s0", "p", "", {"a": b"the first"})
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 400_000, hard))
while not told:
    try:
        vault.put(f"s{kept + 1}", "p", "", {"a": b"%06d" % kept + bytes(50_000)})
        kept += 1
    except VaultError as error:
        told = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
whole = [len(vault.get(f"s{number + 1}", "a")) for number in range(kept)]
vault.put("after", "p", "", {"a": b"room again"})
print(json.dumps([kept, told, whole, vault.get("s0", "a").decode(), vault.get("after", "a").decode(), len(vault.sessions())]))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of records whose key lies beside it in a file."""
    monkeypatch.setenv("MULTIMOOD_RECORDS", str(tmp_path / "records"))
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "keys" / "vault.key"))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert main(["make"]) == 0
    return tmp_path / "records" / NAME


@pytest.fixture
def vault(place: Path) -> Iterator[Vault]:
    vault = Vault()
    yield vault
    vault.close()


def test_a_part_comes_back_as_it_was_and_no_word_of_it_is_on_the_disk(vault: Vault, place: Path) -> None:
    vault.put("s1", "p1", "", {"transcript": SAID, "turn-1.audio": bytes(range(256)) * 1000})
    assert vault.get("s1", "transcript") == SAID
    assert vault.get("s1", "turn-1.audio") == bytes(range(256)) * 1000
    assert vault.get("s1", "turn-2.audio") is None
    written = b"".join(path.read_bytes() for path in place.parent.rglob("*") if path.is_file())
    assert SAID not in written
    assert bytes(range(64)) not in written
    assert (place.stat().st_mode & 0o077, place.parent.stat().st_mode & 0o077) == (0, 0)


def test_it_is_aes_256_gcm_with_a_nonce_for_each_part(vault: Vault, place: Path) -> None:
    """Read with the library alone, by what the file holds."""
    vault.put("s1", "p1", "", {f"t{i}": SAID for i in range(50)})
    rows = sqlite3.connect(place).execute("SELECT name, key, nonce, data FROM part").fetchall()
    key = vault.keys.current
    assert len(key.value) == 32
    assert len({nonce for _, _, nonce, _ in rows}) == 50
    for name, key_id, nonce, data in rows:
        assert AESGCM(key.value).decrypt(nonce, data, f"multimood-vault/1\ns1\n{name}\n{key_id}".encode()) == SAID


def test_a_wrong_key_opens_nothing_and_changes_nothing(vault: Vault, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vault.put("s1", "p1", "", {"transcript": SAID})
    before = place.read_bytes()
    with pytest.raises(VaultError, match=f"encrypted with the key {vault.keys.current.id}.*Nothing was read or changed"):
        Vault(place, Keys((new_key(),), "file"))
    find = os.environ[FILE_VARIABLE]
    Path(find).write_text(new_key().text)
    assert main(["status"]) == 1
    assert "bring the right key back" in capsys.readouterr().err
    assert place.read_bytes() == before


@pytest.mark.parametrize("text", ["", "no key\n", "QUJD\n", "\u00e9\n"])
def test_what_is_no_key_is_refused(vault: Vault, place: Path, text: str) -> None:
    Path(os.environ[FILE_VARIABLE]).write_text(text)
    with pytest.raises(VaultError):
        Vault()


@pytest.mark.parametrize("change", ["data", "nonce", "swap", "session"])
def test_a_part_that_was_changed_or_exchanged_does_not_open(vault: Vault, place: Path, change: str) -> None:
    vault.put("s1", "p1", "", {"one": SAID, "two": b"something else"})
    vault.put("s2", "p2", "", {})
    database = sqlite3.connect(place)
    if change == "swap":
        database.executescript("UPDATE part SET name = 'x' WHERE name = 'one'; UPDATE part SET name = 'one' WHERE name = 'two'")
    elif change == "session":
        database.execute("UPDATE part SET session = 's2'")
    else:
        (old,) = database.execute(f"SELECT {change} FROM part WHERE name = 'one'").fetchone()
        database.execute(f"UPDATE part SET {change} = ? WHERE name = 'one'", (bytes([old[0] ^ 1]) + old[1:],))
    database.commit()
    with pytest.raises(VaultError, match="was changed"):
        vault.get("s2" if change == "session" else "s1", "one")


def test_the_key_may_not_lie_beside_what_it_opens(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE_VARIABLE, str(place.parent / "vault.key"))
    with pytest.raises(VaultError, match="outside of the folder"):
        Vault()


def test_a_key_that_others_may_read_is_refused(place: Path) -> None:
    Path(os.environ[FILE_VARIABLE]).chmod(0o644)
    with pytest.raises(VaultError, match="chmod 600"):
        Vault()


def test_without_a_key_nothing_can_be_kept(place: Path) -> None:
    Path(os.environ[FILE_VARIABLE]).unlink()
    with pytest.raises(NoKeyError, match=r"python -m app\.vault make"):
        Vault()


def test_a_key_is_not_made_over_another(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(os.environ[FILE_VARIABLE]).read_text()
    assert main(["make"]) == 1
    assert "already" in capsys.readouterr().err
    assert Path(os.environ[FILE_VARIABLE]).read_text() == before
    assert before.strip() not in repr(find_keys(place.parent))


def test_rotation_encrypts_everything_anew_and_forgets_the_old_key(vault: Vault, place: Path) -> None:
    vault.put("s1", "p1", "", {f"t{i}": SAID + bytes([i]) for i in range(5)})
    old = vault.keys.current
    vault.close()
    new, count = rotate()
    assert count == 5
    assert new != old.id
    assert old.text not in Path(os.environ[FILE_VARIABLE]).read_text()
    opened = Vault()
    assert (opened.by_key(), opened.get("s1", "t3")) == ({new: 5}, SAID + bytes([3]))
    opened.close()
    with pytest.raises(VaultError):
        Vault(place, Keys((old,), "file"))
    log = Audit(place.parent / "audit.jsonl")
    assert [entry.what for entry in log.entries()] == ["vault.made", "vault.rotated"]
    assert verify(log.path) == []


def test_a_key_in_the_environment_is_rotated_by_its_owner(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = new_key(), new_key()
    monkeypatch.setenv(VARIABLE, old.text)
    vault = Vault()
    vault.put("s1", "p1", "", {"t": SAID})
    vault.close()
    with pytest.raises(VaultError, match="NEW,OLD"):
        rotate()
    monkeypatch.setenv(VARIABLE, f"{new.text},{old.text}")
    assert rotate() == (new.id, 1)
    monkeypatch.setenv(VARIABLE, new.text)
    vault = Vault()
    assert vault.get("s1", "t") == SAID
    vault.close()


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring as a desktop has one, in this process."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


def test_the_key_may_lie_in_the_system_s_keyring(place: Path) -> None:
    Path(os.environ[FILE_VARIABLE]).unlink()
    before, own = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(own)
    try:
        assert main(["make", "--to", "keyring"]) == 0
        vault = Vault()
        vault.put("s1", "p1", "", {"t": SAID})
        old = vault.keys.current
        vault.close()
        assert rotate()[1] == 1
        assert old.text not in str(own.kept)
        vault = Vault()
        assert (vault.keys.source, vault.get("s1", "t")) == ("keyring", SAID)
        vault.close()
    finally:
        keyring.set_keyring(before)
    assert not Path(os.environ[FILE_VARIABLE]).exists()


def killed(place: Path, what: str, after: float, lines: int = 1) -> list[str]:
    """Runs the vault in another process, and kills that ``after`` seconds once it has said so many lines."""
    with subprocess.Popen([sys.executable, "-c", COMMIT, str(place), what], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(lines)]
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        return said + process.stdout.read().split()


def test_a_process_that_is_killed_while_it_writes_leaves_old_or_new_and_never_half(place: Path) -> None:
    for after in (0.0, 0.003, 0.011, 0.02):
        said = killed(place, "put", after, lines=3)
        vault = Vault()
        first, second = vault.get("s0", "a"), vault.get("s0", "b")
        vault.close()
        assert first is not None
        assert second is not None
        assert (len(first), len(second)) == (400_006, 400_006)
        assert first[:6] == second[:6], "two parts of one write are of one time"
        assert int(first[:6]) >= int(said[-1]), "what was acknowledged is there"


def test_a_rotation_that_was_killed_goes_on_and_nothing_is_lost(vault: Vault, place: Path) -> None:
    parts = {f"t{i}": bytes([i]) * 200_000 for i in range(60)}
    vault.put("s1", "p1", "", parts)
    old = vault.keys.current.id
    between = []
    for after in (0.05, 0.12, 0.2):
        killed(place, "rotate", after)
        vault.close()
        vault = Vault()
        between.append(vault.by_key())
        assert {name: vault.get("s1", name) for name in parts} == parts, "readable at every moment"
        vault.close()
        if len(vault.keys.all) == 1:
            break
    new, _ = rotate()
    opened = Vault()
    assert opened.by_key() == {new: 60}
    assert opened.get("s1", "t59") == parts["t59"]
    assert (len(opened.keys.all), new != old) == (1, True)
    opened.close()


def test_a_half_rotated_vault_is_ended_under_the_same_new_key(vault: Vault, place: Path) -> None:
    """As it stands after a kill in the middle: both keys in the file, some parts under each."""
    vault.put("s1", "p1", "", {f"t{i}": SAID for i in range(4)})
    both = vault.keys.with_new(new_key())
    vault.close()
    half = Vault(place, both)
    half.put("s1", "p1", "", {"t0": SAID, "t1": SAID})
    assert sorted(half.by_key().values()) == [2, 2]
    half.close()
    assert rotate() == (both.current.id, 2)


def test_a_full_disk_is_told_and_nothing_that_was_kept_is_lost(place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(place)], capture_output=True, text=True, check=True, timeout=120)
    kept, told, whole, first, after, sessions = json.loads(done.stdout)
    assert kept, "room for nothing is no test"
    assert told.endswith(".")
    assert whole == [50_006] * kept
    assert (first, after, sessions) == ("the first", "room again", kept + 2)


def test_an_app_that_still_has_the_old_key_keeps_nothing_under_it(vault: Vault) -> None:
    vault.put("s1", "p1", "", {"t": SAID})
    rotate()
    with pytest.raises(VaultError, match="start MultiMood again"):
        vault.put("s2", "p1", "", {"t": SAID})
    assert len(vault.sessions()) == 1


def test_what_was_deleted_is_not_on_the_disk_any_more(vault: Vault, place: Path) -> None:
    vault.put("s1", "p1", "", {"t": SAID * 1000})
    (data,) = sqlite3.connect(place).execute("SELECT data FROM part").fetchone()
    piece = data[5000:5032]
    assert piece in place.read_bytes()
    assert vault.drop("s1") == 1
    assert piece not in place.read_bytes()
    assert vault.sessions() == []


def test_a_vault_of_a_newer_multimood_is_left_alone(vault: Vault, place: Path) -> None:
    sqlite3.connect(place).execute("PRAGMA user_version = 99")
    with pytest.raises(VaultError, match="newer"):
        Vault()


def test_a_file_that_is_no_vault_is_a_sentence(place: Path) -> None:
    place.write_bytes(b"no database at all" * 100)
    with pytest.raises(VaultError, match="as it was"):
        Vault()
