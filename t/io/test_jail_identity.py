"""The identity that the configuration asks for, and what a chroot has to contain."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from kit.child import as_nobody, in_child
from kit.needs import needs
from kit.places import NOBODY

from pfxhttpd.io import SetupError, jail
from pfxhttpd.io.jail import Identity

ROOT = Path(__file__).resolve().parents[2]


def refusal(user: str, group: str, chroot: str) -> SetupError:
    with pytest.raises(SetupError) as caught:
        jail.resolve(user, group, chroot)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_user_brings_its_group_and_groups() -> None:
    needs("root")
    nobody = pwd.getpwnam("nobody")
    identity = jail.resolve("nobody", "", "")
    assert identity == Identity(nobody.pw_uid, nobody.pw_gid, (nobody.pw_gid,), "nobody", "nogroup", True)
    assert not identity.stays_root


def test_the_groups_are_all_that_the_user_has(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("root")
    monkeypatch.setattr(os, "getgrouplist", lambda user, gid: [gid, 5, 3, 5])
    assert jail.resolve("nobody", "daemon", "").groups == (1, 3, 5)


def test_a_group_can_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("root")
    identity = jail.resolve("nobody", "daemon", "")
    assert (identity.gid, identity.group) == (1, "daemon")


def test_numbers_stand_for_names() -> None:
    needs("root")
    assert jail.resolve(str(NOBODY), "1", "") == jail.resolve("nobody", "daemon", "")


def test_a_group_alone_clears_the_others_and_drops_roots_privileges() -> None:
    needs("root")
    assert jail.resolve("", "daemon", "") == Identity(0, 1, (1,), "root", "daemon", True)


def test_root_without_a_configured_user_stays_root() -> None:
    needs("root")
    identity = jail.resolve("", "", "")
    assert (identity.uid, identity.gid, identity.stays_root) == (0, 0, True)


@pytest.mark.parametrize(
    ("user", "group", "reason"),
    [
        ("no-such-user", "", "run_as_user no-such-user: there is no such user"),
        ("4294967290", "", "run_as_user 4294967290: there is no such user"),
        ("99999999999999999999", "", "run_as_user 99999999999999999999: there is no such user"),
        ("nobody", "no-such-group", "run_as_group no-such-group: there is no such group"),
        ("", "4294967290", "run_as_group 4294967290: there is no such group"),
    ],
)
def test_names_that_do_not_exist(user: str, group: str, reason: str) -> None:
    failure = refusal(user, group, "")
    assert str(failure) == reason and not failure.permission


@pytest.mark.parametrize(
    ("user", "group", "chroot", "reason"),
    [
        ("daemon", "", "", "run_as_user daemon: only root can become another user"),
        ("root", "", "", "run_as_user root: only root can become another user"),
        ("", "daemon", "", "run_as_group daemon: only root can take another group"),
        ("", "", "/tmp", "chroot /tmp: only root can change the root directory"),
    ],
)
def test_without_root_no_other_user_and_no_chroot_may_be_configured(
    user: str, group: str, chroot: str, reason: str
) -> None:
    needs("root")

    def work() -> tuple[str, bool]:
        failure = refusal(user, group, chroot)
        return str(failure), failure.permission

    assert as_nobody(work) == (reason, True)


@pytest.mark.parametrize(("user", "group"), [("", ""), ("nobody", ""), ("nobody", "nogroup"), ("", str(NOBODY))])
def test_without_root_the_current_user_and_group_may_be_configured(user: str, group: str) -> None:
    needs("root")
    assert as_nobody(lambda: jail.resolve(user, group, "")) == Identity(NOBODY, NOBODY, (), "nobody", "nogroup", False)


def test_an_account_without_a_name_is_no_error() -> None:
    needs("root")

    def work() -> Identity:
        os.setgroups([])
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
        identity = jail.resolve("", "", "")
        jail.drop(identity)
        return identity

    assert in_child(work) == Identity(54321, 54321, (), "54321", "54321", False)


# -- the chroot -------------------------------------------------------------------------------------------------------


def test_a_chroot_with_its_three_files(root: Path) -> None:
    needs("root")
    assert jail.missing(str(root)) == []
    assert jail.resolve("nobody", "", str(root)).drops


def test_a_chroot_that_lacks_files_is_refused_with_their_names(root: Path) -> None:
    needs("root")
    (root / "etc/hosts").unlink()
    (root / "etc/nsswitch.conf").unlink()
    failure = refusal("nobody", "", str(root))
    assert str(failure) == f"chroot {root}: it must contain etc/hosts, etc/nsswitch.conf" and not failure.permission


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/no/such/place", "there is no such directory"),
        ("/etc/passwd", "there is no such directory"),
        ("relative", "must be an absolute path"),
    ],
)
def test_directories_that_are_no_chroot(path: str, part: str) -> None:
    needs("root")
    assert part in str(refusal("nobody", "", path))


def test_links_are_followed_as_inside_the_chroot(root: Path) -> None:
    (root / "run").mkdir()
    (root / "run/resolv.conf").write_text("")
    for target, found in [
        ("/run/resolv.conf", True),  # there is one inside
        ("../run/resolv.conf", True),
        ("../../../../../run/resolv.conf", True),
        ("/etc/../etc/hosts", True),
        ("/etc/passwd", False),  # there is one outside only
        (f"{root}/etc/hosts", False),
        ("hosts/../hosts", False),
        ("resolv.conf", False),
        ("/run", False),
    ]:
        (root / "etc/resolv.conf").unlink()
        (root / "etc/resolv.conf").symlink_to(target)
        assert (jail.missing(str(root)) == []) == found, target


@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_what_is_no_regular_file_is_missing(kind: str, root: Path) -> None:
    (root / "etc/hosts").unlink()
    make = {"directory": os.mkdir, "pipe": os.mkfifo}[kind]
    make(root / "etc/hosts")
    assert jail.missing(str(root)) == ["etc/hosts"]
