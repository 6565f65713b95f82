"""Entering the chroot, dropping root's privileges, and the proof that neither can be undone.

Nothing is retried. A step that fails raises `SetupError`, and the server does not start.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable
from contextlib import suppress

from pfxhttpd.io import SetupError
from pfxhttpd.io.jail import kernel
from pfxhttpd.io.jail.identity import JAIL_FILES, Identity

UMASK = 0o077


def enter(root: str) -> None:
    """Make `root` the root directory. Open directories are closed first, since fchdir(2) to one leads out again."""
    try:
        _close_directories()
        os.chdir(root)
        os.chroot(".")
        os.chdir("/")
    except OSError as error:
        raise SetupError(
            f"chroot {root}: {error.strerror}", isinstance(error, PermissionError), exit_code=os.EX_CONFIG
        ) from error


def _close_directories() -> None:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor that listed the directory is gone by now
            if stat.S_ISDIR(os.fstat(int(name)).st_mode):
                os.close(int(name))


def drop(identity: Identity) -> None:
    """Become `identity` for good: groups, ids, capabilities, core dumps, new privileges, umask; then verify.

    Root keeps its privileges if no other identity is configured. Raises `SetupError`.
    """
    try:
        if identity.drops:
            # The bounding set limits what an executed program can gain, and no_new_privs below forbids any gain. So it
            # is no loss if the service manager has not given us CAP_SETPCAP, which emptying the set takes.
            with suppress(PermissionError):
                kernel.empty_bounding_set()
            os.setgroups(identity.groups)
            os.setresgid(identity.gid, identity.gid, identity.gid)
            os.setresuid(identity.uid, identity.uid, identity.uid)
        if not identity.stays_root:
            kernel.clear_capabilities()
        kernel.forbid_new_privileges()
        kernel.forbid_dumps()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(UMASK)
    except OSError as error:
        raise SetupError(
            f"cannot run as {identity.user}:{identity.group}: {error.strerror}",
            isinstance(error, PermissionError),
            exit_code=os.EX_CONFIG,
        ) from error
    verify(identity)


def check_inside(identity: Identity) -> None:
    """After `enter` and `drop`: raise `SetupError` unless this process can read the files of name resolution."""
    unreadable = [name for name in JAIL_FILES if not os.access(f"/{name}", os.R_OK)]
    if unreadable:
        raise SetupError(
            f"chroot: {identity.user}:{identity.group} cannot read {', '.join(unreadable)} inside it", permission=True
        )


def verify(identity: Identity) -> None:
    """Raise `SetupError` unless this process has exactly the rights of `identity`, and root cannot be regained."""
    wrong = [what for what, holds in _checks(identity).items() if not holds]
    if identity.uid != 0:
        wrong += [f"{what} succeeded" for what, attempt in _attempts_to_regain(identity).items() if _succeeds(attempt)]
    if wrong:
        raise SetupError(
            f"running as {identity.user}:{identity.group} failed its check: {', '.join(wrong)}", exit_code=os.EX_CONFIG
        )


def _checks(identity: Identity) -> dict[str, bool]:
    return {
        "user ids": os.getresuid() == (identity.uid,) * 3,
        "group ids": os.getresgid() == (identity.gid,) * 3,
        "supplementary groups": set(os.getgroups()) == set(identity.groups),
        "capabilities": identity.stays_root or kernel.capabilities() == (0, 0, 0, 0),
        "new privileges": kernel.new_privileges_forbidden(),
        "dumps": kernel.dumps_forbidden(),
        "core size": resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
    }


def _attempts_to_regain(identity: Identity) -> dict[str, Callable[[], None]]:
    attempts: dict[str, Callable[[], None]] = {
        "setuid to root": lambda: os.setuid(0),
        "setreuid to root": lambda: os.setreuid(0, 0),
        "setresuid to root": lambda: os.setresuid(0, 0, 0),
        "setgroups": lambda: os.setgroups([0]),
    }
    if identity.gid != 0:
        attempts["setgid to root's group"] = lambda: os.setgid(0)
    return attempts


def _succeeds(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True
