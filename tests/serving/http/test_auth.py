"""API keys: the keys file, what a key allows, and how keys are added and removed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.s3 import s3, s3_proxy
from helpers.s3_server import FaultyS3

from persrep_ray.cli import main
from persrep_ray.config import ConfigError, HttpConfig
from persrep_ray.serving.http import auth
from persrep_ray.serving.http.auth import Access, Keys, add_entry, new_key
from persrep_ray.storage.store import open_store

__all__ = ["s3", "s3_proxy"]

DIGEST = hashlib.sha256(b"prk_a").hexdigest()
OTHER_DIGEST = hashlib.sha256(b"prk_b").hexdigest()


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "shop", "sha256": DIGEST, "prefixes": ["shop_"], **changes}


def text(*entries: dict[str, Any]) -> str:
    return json.dumps({"keys": entries})


@pytest.fixture(autouse=True)
def _no_keys_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(auth.ENVIRONMENT, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def keys_of(file: Path) -> Keys:
    return Keys.load(HttpConfig(keys_file=str(file)))


def test_a_key_opens_what_its_entry_says(file: Path) -> None:
    file.write_text(text(entry(), entry(name="ops", sha256=OTHER_DIGEST, prefixes=[""], delete=True)))
    keys = keys_of(file)
    assert keys.access("prk_a") == Access(("shop_",), may_delete=False)
    assert keys.access("prk_b") == Access(("",), may_delete=True)
    for wrong in (None, "", "prk_", "prk_a ", DIGEST, "prk_ä", "x" * 100_000):
        assert keys.access(wrong) is None


@pytest.mark.parametrize(
    ("prefixes", "object_id", "seen"),
    [
        (["shop_"], "shop_1", True),
        (["shop_"], "shop_", True),
        (["shop_"], "shop", False),
        (["shop_"], "my_shop_1", False),
        (["shop_"], "SHOP_1", False),
        (["a", "b"], "b1", True),
        (["a", "b"], "c1", False),
        ([""], "anything", True),
    ],
)
def test_prefixes(prefixes: list[str], object_id: str, seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(auth.ENVIRONMENT, text(entry(prefixes=prefixes)))
    access = Keys.load(HttpConfig()).access("prk_a")
    assert access is not None and access.sees(object_id) is seen


def test_the_file_goes_before_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(auth.ENVIRONMENT, text(entry(sha256=OTHER_DIGEST)))
    assert Keys.load(HttpConfig()).access("prk_b") is not None
    file.write_text(text(entry()))
    assert keys_of(file).access("prk_b") is None and keys_of(file).access("prk_a") is not None


def test_without_any_keys_all_is_open_but_deleting() -> None:
    assert Keys.load(HttpConfig()).access(None) == Access(("",), may_delete=False)


def test_an_empty_list_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(auth.ENVIRONMENT, '{"keys": []}')
    assert Keys.load(HttpConfig()).access("prk_a") is None
    monkeypatch.setenv(auth.ENVIRONMENT, "")  # a secret that was not filled in must not open the door
    with pytest.raises(ConfigError, match="PERSREP_API_KEYS: Invalid JSON"):
        Keys.load(HttpConfig())


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("prk_secret", "Invalid JSON"),
        ("[]", "valid dictionary|object"),
        ("{}", "keys: Field required"),
        ('{"keys": [], "extra": 1}', "extra: Extra inputs"),
        (text(entry(delete="yes")), "keys.0.delete: Input should be a valid boolean"),
        (text(entry(), entry(sha256=OTHER_DIGEST)), "keys: Value error, two keys have the same name"),
        (text(entry(), entry(name="b")), "keys: Value error, two keys have the same sha256"),
        (text(entry(sha256="prk_secret")), "keys.0.sha256: String should match"),
        (text(entry(sha256=DIGEST.upper())), "keys.0.sha256: String should match"),
        (text(entry(sha256=DIGEST + "\n")), "keys.0.sha256: String should match"),
        (text(entry(prefixes=[])), "keys.0.prefixes: Tuple should have at least 1 item"),
        (text(entry(prefixes="shop_")), "keys.0.prefixes: Input should be a valid"),
        (text(entry(prefixes=["shop/"])), "keys.0.prefixes.0: String should match"),
        (text(entry(prefixes=["x" * 129])), "keys.0.prefixes.0: String should match"),
        (text(entry(name="")), "keys.0.name: String should have at least 1 character"),
        (text(entry(key="prk_secret")), "keys.0.key: Extra inputs"),
    ],
)
def test_mistakes_in_a_file_are_named_and_never_shown(content: str, cause: str, file: Path) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=cause) as caught:
        keys_of(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "prk_secret" not in str(caught.value) and DIGEST not in str(caught.value)


def test_files_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keys\.json: cannot be read: No such file"):
        keys_of(file)
    os.mkfifo(file)
    with pytest.raises(ConfigError, match=r"keys\.json: not a regular file"):
        keys_of(file)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        keys_of(tmp_path / "binary")


def refreshed(keys: Keys) -> Keys:
    keys.refresh()
    return keys


def test_keys_come_and_go_without_a_restart(file: Path) -> None:
    file.write_text(text(entry()))
    keys = keys_of(file)
    file.write_text(text(entry(), entry(name="ops", sha256=OTHER_DIGEST)))
    assert refreshed(keys).access("prk_b") is not None and refreshed(keys).access("prk_a") is not None
    file.write_text(text(entry(sha256=OTHER_DIGEST)))
    assert refreshed(keys).access("prk_b") is not None and refreshed(keys).access("prk_a") is None
    replacement = file.with_name("new")
    replacement.write_text(text(entry()))
    os.utime(replacement, ns=(file.stat().st_mtime_ns,) * 2)  # replaced within one tick of the clock
    os.replace(replacement, file)
    assert refreshed(keys).access("prk_a") is not None and refreshed(keys).access("prk_b") is None


def test_a_file_that_breaks_leaves_the_keys_from_before_and_says_so_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(text(entry()))
    keys = keys_of(file)
    file.write_text('{"keys": [{"name": "prk_secret"')
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert refreshed(keys).access("prk_a") is not None
    assert len(caplog.records) == 1 and "Invalid JSON" in caplog.text and "prk_secret" not in caplog.text
    file.unlink()
    with caplog.at_level(logging.ERROR):
        assert refreshed(keys).access("prk_a") is not None
    assert "No such file" in caplog.text
    file.write_text(text(entry(sha256=OTHER_DIGEST)))
    assert refreshed(keys).access("prk_a") is None and refreshed(keys).access("prk_b") is not None


@pytest.mark.parametrize("failing", ["_stamp", "read_file"])
def test_a_read_that_fails_once_is_made_up_for(
    failing: str, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(text(entry()))
    keys = keys_of(file)
    file.write_text(text(entry(sha256=OTHER_DIGEST)))  # prk_a is revoked

    def unreachable(*_: object) -> None:
        raise OSError("the endpoint cannot be reached")

    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(auth, "read_file", unreachable)
        if failing == "_stamp":
            broken.setattr(auth, "_stamp", lambda _: None)
        for _ in range(3):
            assert refreshed(keys).access("prk_a") is not None
    assert len(caplog.records) == 1 and "the endpoint cannot be reached; the previous keys stay" in caplog.text
    assert refreshed(keys).access("prk_a") is None and keys.access("prk_b") is not None


def test_the_file_is_followed_and_asking_does_not_wait_for_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(text(entry()))
    keys = keys_of(file)
    file.write_text(text())
    assert keys.access("prk_a") is not None

    async def scenario() -> None:
        monkeypatch.setattr(auth, "_LOOK_EVERY_S", 0)
        follower = asyncio.create_task(keys.follow())
        while keys.access("prk_a") is not None:
            await asyncio.sleep(0)
        follower.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_file_in_s3_is_added_to_and_followed(s3: FaultyS3) -> None:
    location = f"{s3.uri}/secrets/keys.json"
    with pytest.raises(ConfigError, match=f"{location}: cannot be read: .*no such object"):
        Keys.load(HttpConfig(keys_file=location))
    first, made = new_key("first", [""], delete=False)
    add_entry(location, made)
    keys = Keys.load(HttpConfig(keys_file=location))
    second, made = new_key("second", [""], delete=False)
    add_entry(location, made)
    assert keys.access(second) is None
    assert refreshed(keys).access(first) is not None and keys.access(second) is not None
    s3.requests.clear()
    keys.refresh()
    assert [request.operation for request in s3.requests] == ["HeadObject"]
    s3.ignores_conditions = True
    with pytest.raises(ConfigError, match="ignores conditional writes"):
        add_entry(location, new_key("third", [""], delete=False)[1])
    assert len(json.loads(open_store(s3.uri).read("secrets/keys.json"))["keys"]) == 2


def test_all_entries_are_compared_whichever_fits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(text(entry(), entry(name="ops", sha256=OTHER_DIGEST)))
    keys = keys_of(file)
    compared: list[str] = []
    original = auth.hmac.compare_digest
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: (compared.append(a), original(a, b))[1])
    for secret in ("prk_a", "prk_b", "prk_c"):
        keys.access(secret)
    assert compared == [DIGEST, OTHER_DIGEST] * 3


def test_new_keys_work_and_differ(file: Path) -> None:
    key, made = new_key("shop", ["shop_", "store_"], delete=True)
    another, _ = new_key("shop", [""], delete=False)
    assert key.startswith("prk_") and len(key) == 4 + 43 and key != another
    file.write_text(text(made.model_dump()))
    assert keys_of(file).access(key) == Access(("shop_", "store_"), may_delete=True)
    with pytest.raises(ConfigError, match=r"prefixes\.0: "):
        new_key("shop", ["shop/"], delete=False)


def test_added_entries_are_all_kept_and_private(file: Path) -> None:
    made = [new_key(f"key {number}", [""], delete=False) for number in range(8)]
    threads = [threading.Thread(target=add_entry, args=(file, one)) for _, one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys = keys_of(file)
    assert all(keys.access(key) for key, _ in made)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(os.listdir(file.parent)) == [".persrep", "keys.json"]


def test_a_keys_file_is_private_before_it_appears_and_keeps_its_permissions(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    replace = os.replace

    def noted(scratch: Path, target: Path) -> None:
        modes.append(stat.S_IMODE(scratch.stat().st_mode))
        replace(scratch, target)

    monkeypatch.setattr(os, "replace", noted)
    add_entry(file, new_key("shop", [""], delete=False)[1])
    file.chmod(0o640)  # for the group that the endpoint runs as
    add_entry(file, new_key("ops", [""], delete=False)[1])
    assert modes == [0o600, 0o640]


def test_a_name_that_is_taken_and_a_broken_file_change_nothing(file: Path) -> None:
    add_entry(file, new_key("shop", [""], delete=False)[1])
    before = file.read_text()
    with pytest.raises(ConfigError, match="two keys have the same name"):
        add_entry(file, new_key("shop", [""], delete=False)[1])
    assert file.read_text() == before
    file.write_text("broken")
    with pytest.raises(ConfigError, match="Invalid JSON"):
        add_entry(file, new_key("ops", [""], delete=False)[1])
    assert file.read_text() == "broken" and sorted(os.listdir(file.parent)) == [".persrep", "keys.json"]


def test_the_command_prints_a_key_and_what_is_kept_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["keys", "new", "--name", "shop", "--prefix", "shop_", "store_", "--delete"]) == 0
    key, kept = capsys.readouterr().out.split("\n", 1)
    assert key not in kept
    monkeypatch.setenv(auth.ENVIRONMENT, kept)
    assert Keys.load(HttpConfig()).access(key) == Access(("shop_", "store_"), may_delete=True)


def test_the_command_adds_to_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "--name", "ops", "--file", str(file)]) == 0
    key = capsys.readouterr().out.strip()
    assert keys_of(file).access(key) == Access(("",), may_delete=False)
    assert key not in file.read_text()
    assert main(["keys", "new", "--name", "ops", "--file", str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "two keys have the same name" in printed.err
    assert main(["keys", "new", "--name", "other", "--file", str(file.parent / "nowhere" / "keys.json")]) == 2
