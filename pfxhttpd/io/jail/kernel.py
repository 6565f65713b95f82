"""System calls that Python has no function for: prctl(2), capget(2), capset(2)."""

from __future__ import annotations

import ctypes
import errno
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4

_SET_PDEATHSIG = 1
_SET_DUMPABLE, _CAPBSET_READ, _CAPBSET_DROP = 4, 23, 24
_GET_DUMPABLE = 3
_SET_NO_NEW_PRIVS, _GET_NO_NEW_PRIVS = 38, 39
_CAP_AMBIENT, _AMBIENT_IS_SET = 47, 1
_HIGHEST_CAPABILITY = 63
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words of 32 bits, linux/capability.h


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Word(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def _prctl(option: int, first: int = 0, second: int = 0) -> int:
    result = _LIBC.prctl(option, first, second, 0, 0)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def bounding_set() -> set[int]:
    """The numbers of the capabilities that an executed program could still gain."""
    held = set()
    for number in range(_HIGHEST_CAPABILITY + 1):
        try:
            if _prctl(_CAPBSET_READ, number):
                held.add(number)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the last one of this kernel
                break
            raise
    return held


def empty_bounding_set() -> None:
    """Keep programs executed later from gaining any capability. Raises `OSError` (EPERM) without CAP_SETPCAP."""
    for number in bounding_set():
        _prctl(_CAPBSET_DROP, number)


def capabilities() -> tuple[int, int, int, int]:
    """This process's effective, permitted, inheritable and ambient sets, with a bit for each capability."""
    words = (_Word * 2)()
    if _LIBC.capget(ctypes.byref(_Header(_CAPABILITY_VERSION, 0)), words):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    ambient = 0
    for number in range(_HIGHEST_CAPABILITY + 1):
        try:
            ambient |= _prctl(_CAP_AMBIENT, _AMBIENT_IS_SET, number) << number
        except OSError as error:
            if error.errno == errno.EINVAL:
                break
            raise
    low, high = words
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
        ambient,
    )


def clear_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets, which empties the ambient set as well (capabilities(7))."""
    if _LIBC.capset(ctypes.byref(_Header(_CAPABILITY_VERSION, 0)), (_Word * 2)()):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def forbid_new_privileges() -> None:
    """From now on no execve(2) grants privileges, not even those of a set-user-ID program (PR_SET_NO_NEW_PRIVS)."""
    _prctl(_SET_NO_NEW_PRIVS, 1)


def new_privileges_forbidden() -> bool:
    return _prctl(_GET_NO_NEW_PRIVS) == 1


def forbid_dumps() -> None:
    """Forbid core dumps, and debuggers and readers of /proc/PID/mem but root's, since memory holds passwords for a while."""
    _prctl(_SET_DUMPABLE, 0)


def dumps_forbidden() -> bool:
    return _prctl(_GET_DUMPABLE) == 0


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this process the signal when the parent ends, however it ends."""
    _prctl(_SET_PDEATHSIG, number)
