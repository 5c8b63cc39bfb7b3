"""procd's own configuration: what it accepts, and the sentence for what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from condor_starter.procd.settings import Settings, SettingsError, load


def write(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


def test_no_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(str(tmp_path / "none"), []) == Settings()


def test_file_then_overrides(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c", "# comment\nexecute = /a, /b  # two\nmin_uid = 500\nnamed_chroot = r1=/x, r2=/y\n\n"
    )
    settings = load(path, ["min_uid=600", "client=7"])
    assert settings.execute == ("/a", "/b")
    assert settings.min_uid == 600
    assert settings.chroots == {"r1": "/x", "r2": "/y"}
    assert settings.client_uid() == 7


@pytest.mark.req("X2", "X9")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("exeucte = /a", r"c:1: unknown setting 'exeucte'"),
        ("just words", r"c:1: unknown setting"),
        ("min_uid = many", "min_uid: expected a number"),
        ("min_uid = 0", "never run as root"),
        ("execute = relative", "execute: expected an absolute path"),
        ("execute = /a/../b", "execute: expected an absolute path"),
        ("named_chroot = r1", "named_chroot: expected NAME=/directory"),
        ("bind_allow = //x", "bind_allow: expected an absolute path"),
    ],
)
def test_a_bad_line_is_refused_in_one_sentence(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(write(tmp_path / "c", line + "\n"), [])


@pytest.mark.req("P6", "X2")
def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "c", "min_uid = 500\n"))
    path.chmod(0o666)
    with pytest.raises(SettingsError, match="writable by nobody else"):
        load(str(path), [])


def test_a_client_account_that_does_not_exist_is_told() -> None:
    with pytest.raises(SettingsError, match="no account 'no-such-account'"):
        Settings(client="no-such-account").client_uid()
