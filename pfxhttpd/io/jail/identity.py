"""The user and group that the configuration asks for, looked up before anything is changed."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pfxhttpd.io import SetupError

JAIL_FILES = ("etc/resolv.conf", "etc/hosts", "etc/nsswitch.conf")
"""The files that name resolution reads inside a chroot."""

_MAX_LINKS = 40
"""The kernel's own limit, path_resolution(7)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The ids to run with. If `drops` is true, root changes to them, with `groups` as the only supplementary groups and
    without any capability. Otherwise they are the ids that this process has."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    user: str
    group: str
    drops: bool

    @property
    def stays_root(self) -> bool:
        """Whether root serves with all its privileges, since no other identity is configured."""
        return self.uid == 0 and not self.drops


def resolve(user: str, group: str, chroot: str) -> Identity:
    """The identity for `run_as_user`, `run_as_group` and `chroot`, each empty if not configured; ids may stand for names.

    Without a group the user's own is used. The supplementary groups are those of the user. Raises `SetupError` for unknown
    names, for a chroot that does not exist or lacks files, and for what only root can do.
    """
    account = _account(user) if user else None
    gid = _group_id(group) if group else account.pw_gid if account else os.getegid()
    uid = account.pw_uid if account else os.geteuid()
    if os.geteuid() != 0:
        if uid != os.geteuid():
            raise SetupError(f"run_as_user {user}: only root can become another user", permission=True)
        if group and gid != os.getegid():
            raise SetupError(f"run_as_group {group}: only root can take another group", permission=True)
        if chroot:
            raise SetupError(f"chroot {chroot}: only root can change the root directory", permission=True)
        return _current()
    if chroot:
        _check_jail(chroot)
    if not (uid or group or chroot):
        return _current()
    groups = os.getgrouplist(account.pw_name, gid) if account else [gid]
    return Identity(uid, gid, tuple(sorted(set(groups))), _user_name(uid), _group_name(gid), drops=True)


def check(user: str, group: str, chroot: str) -> Iterator[tuple[str, SetupError]]:
    """What `resolve` would refuse when root calls it, as far as this process can see: pairs of a key and the error."""
    checks: dict[str, tuple[str, Callable[[str], object]]] = {
        "run_as_user": (user, _account),
        "run_as_group": (group, _group_id),
        "chroot": (chroot, _check_jail),
    }
    for key, (value, look) in checks.items():
        try:
            if value:
                look(value)
        except SetupError as error:
            yield key, error


def _current() -> Identity:
    uid, gid = os.geteuid(), os.getegid()
    return Identity(uid, gid, tuple(sorted(os.getgroups())), _user_name(uid), _group_name(gid), drops=False)


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError, ValueError):
        raise SetupError(f"run_as_user {user}: there is no such user", exit_code=os.EX_CONFIG) from None


def _group_id(group: str) -> int:
    try:
        return (grp.getgrgid(int(group)) if group.isdecimal() else grp.getgrnam(group)).gr_gid
    except (KeyError, OverflowError, ValueError):
        raise SetupError(f"run_as_group {group}: there is no such group", exit_code=os.EX_CONFIG) from None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _check_jail(root: str) -> None:
    if not os.path.isabs(root):
        raise SetupError(f"chroot {root}: must be an absolute path", exit_code=os.EX_CONFIG)
    if not os.path.isdir(root):
        raise SetupError(f"chroot {root}: there is no such directory", exit_code=os.EX_CONFIG)
    absent = missing(root)
    if absent:
        raise SetupError(f"chroot {root}: it must contain {', '.join(absent)}", exit_code=os.EX_CONFIG)


def missing(root: str) -> list[str]:
    """Which of JAIL_FILES will not be regular files once `root` is the root directory."""
    return [name for name in JAIL_FILES if not _is_file_inside(root, name)]


def _is_file_inside(root: str, name: str) -> bool:
    """Follow links as the kernel will inside the chroot: absolute ones begin at `root`, and `..` never leaves it."""
    walked: list[str] = []
    pending = name.split("/")
    links = 0
    status = None  # of the last component in `walked`, if it is known
    while pending:
        part = pending.pop(0)
        if status and not stat.S_ISDIR(status.st_mode):
            return False
        if part in ("", "."):
            continue
        if part == "..":
            del walked[-1:]
            status = None
            continue
        path = os.path.join(root, *walked, part)
        try:
            status = os.lstat(path)
            if not stat.S_ISLNK(status.st_mode):
                walked.append(part)
                continue
            target = os.readlink(path)
        except OSError:
            return False
        links += 1
        status = None
        if links > _MAX_LINKS:
            return False
        if target.startswith("/"):
            walked.clear()
        pending = target.split("/") + pending
    return status is not None and stat.S_ISREG(status.st_mode)
