"""The way down: into the jail, out of root's rights, and the proof that neither can be undone.

Nothing here is retried or guessed: whatever does not happen as asked raises JailError, and the server does not start.
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
    """Makes `root` the root directory. Open directories are closed first: one that is left leads out again."""
    try:
        _close_directories()
        os.chdir(root)
        os.chroot(".")
        os.chdir("/")
    except OSError as failure:
        raise SetupError(
            f"chroot {root}: {failure.strerror}", isinstance(failure, PermissionError), exit_code=os.EX_CONFIG
        ) from failure


def _close_directories() -> None:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor that listed the directory is gone by now
            if stat.S_ISDIR(os.fstat(int(name)).st_mode):
                os.close(int(name))


def drop(identity: Identity) -> None:
    """Becomes `identity`, for good: groups, ids, capabilities, core dumps, new privileges, umask; then verifies.

    Root that was asked for nothing keeps its rights. Raises JailError.
    """
    try:
        if identity.descends:
            # A ceiling that new privileges, forbidden below, could not reach anyway: a service manager that gave us
            # too little to lower it (CAP_SETPCAP) has lowered it itself.
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
    except OSError as failure:
        raise SetupError(
            f"cannot run as {identity.user}:{identity.group}: {failure.strerror}",
            isinstance(failure, PermissionError),
            exit_code=os.EX_CONFIG,
        ) from failure
    verify(identity)


def check_inside(identity: Identity) -> None:
    """After `enter` and `drop`: raises JailError unless what name resolution reads can be read by whom we became."""
    unreadable = [name for name in JAIL_FILES if not os.access(f"/{name}", os.R_OK)]
    if unreadable:
        raise SetupError(
            f"chroot: {identity.user}:{identity.group} cannot read {', '.join(unreadable)} inside it", permission=True
        )


def verify(identity: Identity) -> None:
    """Raises JailError unless this process is `identity` and nothing more, and root cannot be had back."""
    wrong = [what for what, holds in _claims(identity).items() if not holds]
    if identity.uid != 0:
        wrong += [f"{what} succeeded" for what, attempt in _ways_back(identity).items() if _succeeds(attempt)]
    if wrong:
        raise SetupError(
            f"running as {identity.user}:{identity.group} failed its check: {', '.join(wrong)}", exit_code=os.EX_CONFIG
        )


def _claims(identity: Identity) -> dict[str, bool]:
    return {
        "user ids": os.getresuid() == (identity.uid,) * 3,
        "group ids": os.getresgid() == (identity.gid,) * 3,
        "supplementary groups": set(os.getgroups()) == set(identity.groups),
        "capabilities": identity.stays_root or kernel.capabilities() == (0, 0, 0, 0),
        "new privileges": kernel.new_privileges_forbidden(),
        "dumps": kernel.dumps_forbidden(),
        "core size": resource.getrlimit(resource.RLIMIT_CORE) == (0, 0),
    }


def _ways_back(identity: Identity) -> dict[str, Callable[[], None]]:
    ways: dict[str, Callable[[], None]] = {
        "setuid to root": lambda: os.setuid(0),
        "setreuid to root": lambda: os.setreuid(0, 0),
        "setresuid to root": lambda: os.setresuid(0, 0, 0),
        "setgroups": lambda: os.setgroups([0]),
    }
    if identity.gid != 0:
        ways["setgid to root's group"] = lambda: os.setgid(0)
    return ways


def _succeeds(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True
