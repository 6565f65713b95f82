"""The drop of privileges, made for real in child processes: what they are afterwards, and that root cannot be regained."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.child import ChildFailed, as_nobody, in_child, process_status
from kit.needs import needs
from kit.places import NOBODY

from pfxhttpd.io import SetupError, jail
from pfxhttpd.io.jail import Identity, drop_privileges, kernel

ROOT = Path(__file__).resolve().parents[2]


def test_files_that_the_user_cannot_read_are_an_error_after_the_drop(root: Path) -> None:
    needs("root")
    (root / "etc/hosts").chmod(0o600)

    def work() -> tuple[str, bool]:
        identity = jail.resolve("nobody", "", str(root))
        jail.enter(str(root))
        jail.drop(identity)
        with pytest.raises(SetupError) as caught:
            jail.check_inside(identity)
        return str(caught.value), caught.value.permission

    assert in_child(work) == ("chroot: nobody:nogroup cannot read etc/hosts inside it", True)
    (root / "etc/hosts").chmod(0o644)
    with pytest.raises(ChildFailed, match="DID NOT RAISE"):
        in_child(work)


def test_afterwards_every_id_is_the_users_and_nothing_of_root_is_left() -> None:
    needs("root")

    def work() -> tuple[dict[str, str], int, tuple[int, int]]:
        os.setgroups([0, 4, 6])
        jail.drop(jail.resolve("nobody", "", ""))
        return process_status(), os.umask(0), resource.getrlimit(resource.RLIMIT_CORE)

    fields, umask, core = in_child(work)
    assert fields["Uid"] == " ".join([str(NOBODY)] * 4) == fields["Gid"]
    assert fields["Groups"] == str(NOBODY)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, name
    assert fields["NoNewPrivs"] == "1" and umask == 0o077 and core == (0, 0)


def test_children_and_the_programs_they_start_are_the_same() -> None:
    needs("root")

    def work() -> tuple[str, str]:
        identity = jail.resolve("nobody", "", "")
        jail.drop(identity)
        return in_child(lambda: str(jail.verify(identity))), subprocess.run(
            ["grep", "-E", "^(Uid|Cap|NoNew)", "/proc/self/status"], capture_output=True, text=True
        ).stdout

    verified, shown = in_child(work)
    assert verified == "None"
    assert shown.split() == [
        "Uid:",
        *[str(NOBODY)] * 4,
        *(word for name in ("Inh", "Prm", "Eff", "Bnd", "Amb") for word in (f"Cap{name}:", "0" * 16)),
        "NoNewPrivs:",
        "1",
    ]


def test_a_set_user_id_program_grants_nothing() -> None:
    needs("root")
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        directory.chmod(0o755)
        program = directory / "id"
        shutil.copy(shutil.which("id") or "/usr/bin/id", program)
        program.chmod(0o4755)

        def effective_user() -> str:
            return subprocess.run([program, "-u"], capture_output=True, text=True).stdout.strip()

        def work() -> str:
            jail.drop(jail.resolve("nobody", "", ""))
            return effective_user()

        assert as_nobody(effective_user) == "0", "the program does not run as root here at all"
        assert in_child(work) == str(NOBODY)
    finally:
        shutil.rmtree(directory)


def test_no_other_user_can_read_the_memory_of_the_process() -> None:
    needs("root")

    def work() -> bool:
        jail.drop(jail.resolve("nobody", "", ""))
        me = os.getpid()

        def neighbour() -> bool:
            try:
                open(f"/proc/{me}/mem", "rb").close()
            except PermissionError:
                return False
            return True

        return in_child(neighbour)

    assert in_child(work) is False


def test_root_cannot_be_regained() -> None:
    needs("root")

    def work() -> list[str]:
        jail.drop(jail.resolve("nobody", "", ""))
        attempts: dict[str, Callable[[], object]] = {
            "setuid": lambda: os.setuid(0),
            "seteuid": lambda: os.seteuid(0),
            "setresuid": lambda: os.setresuid(-1, 0, -1),
            "setgid": lambda: os.setgid(0),
            "setgroups": lambda: os.setgroups([0]),
            "setgroups none": lambda: os.setgroups([]),
            "mknod": lambda: os.mknod("/tmp/never", stat.S_IFBLK, os.makedev(8, 0)),
            "chown": lambda: os.chown("/tmp", NOBODY, NOBODY),
            "kill": lambda: os.kill(1, 0),
            "bind": lambda: socket.socket().bind(("127.0.0.1", 25)),
            "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            "core": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
            "shadow": lambda: Path("/etc/shadow").read_text(),
            "nice": lambda: os.nice(-5),
        }
        return [name for name, attempt in attempts.items() if succeeds(attempt)]

    assert in_child(work) == []


def succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, ValueError):
        return False
    return True


def test_the_chroot_cannot_be_left(root: Path) -> None:
    needs("root")
    inside = root.stat()

    def work() -> dict[str, object]:
        outside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        reference = os.open("/etc", os.O_PATH)
        kept = os.open(root / "etc/hosts", os.O_RDONLY)
        identity = jail.resolve("nobody", "", str(root))
        jail.enter(str(root))
        jail.drop(identity)
        found: dict[str, object] = {"cwd": os.getcwd(), "list": os.listdir("/"), "kept": os.read(kept, 1)}
        for name, descriptor in (("directory", outside), ("path", reference)):
            found[name] = succeeds(lambda: os.fchdir(descriptor))
        found["chroot"] = succeeds(lambda: os.chroot("/etc"))
        os.chdir("/")
        found["up"] = len({os.stat("/" + "../" * depth).st_ino for depth in range(20)} | {inside.st_ino})
        found["ptrace"] = ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)
        found["mount"] = ctypes.CDLL(None).mount(b"proc", b"/etc", b"proc", 0, 0)
        found["namespace"] = ctypes.CDLL(None).unshare(0x20000)
        return found

    assert in_child(work) == {
        "cwd": "/",
        "list": ["etc"],
        "kept": b"",
        "directory": False,
        "path": False,
        "chroot": False,
        "up": 1,
        "ptrace": -1,
        "mount": -1,
        "namespace": -1,
    }


def test_root_cannot_leave_the_chroot_either(root: Path) -> None:
    needs("root")

    def work() -> tuple[int, bool, bool, bool]:
        identity = jail.resolve("", "", str(root))
        jail.enter(str(root))
        jail.drop(identity)
        return (
            os.getuid(),
            succeeds(lambda: os.chroot("/etc")),
            succeeds(lambda: os.setgroups([4])),
            kernel.capabilities() == (0, 0, 0, 0),
        )

    assert in_child(work) == (0, False, False, True)


def test_entering_what_cannot_be_entered() -> None:
    needs("root")

    def work() -> tuple[str, bool]:
        with pytest.raises(SetupError) as caught:
            jail.enter("/tmp")
        return str(caught.value), caught.value.permission

    assert as_nobody(work) == ("chroot /tmp: Operation not permitted", True)


def test_root_that_stays_keeps_its_privileges_but_dumps_no_core() -> None:
    needs("root")

    def work() -> tuple[bool, dict[str, str]]:
        before = kernel.capabilities()
        jail.drop(jail.resolve("", "", ""))
        return kernel.capabilities() == before and before[0] != 0, process_status()

    same, fields = in_child(work)
    assert same and fields["NoNewPrivs"] == "1" and fields["Uid"] == "0 0 0 0"


def test_without_root_the_ids_stay_and_everything_else_is_dropped() -> None:
    needs("root")

    def work() -> tuple[dict[str, str], tuple[int, int]]:
        os.setgroups([4])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: what systemd's AmbientCapabilities= would leave
        os.setresuid(NOBODY, NOBODY, NOBODY)
        assert kernel.capabilities()[1] != 0
        jail.drop(jail.resolve("", "", ""))
        return process_status(), resource.getrlimit(resource.RLIMIT_CORE)

    fields, core = in_child(work)
    assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1" and core == (0, 0) and fields["Groups"] == "4"


def test_ambient_capabilities_are_dropped() -> None:
    needs("root")
    bind_service = 10

    def work() -> tuple[int, int]:
        header, words = kernel._Header(kernel._CAPABILITY_VERSION, 0), (kernel._Word * 2)()
        words[0].effective = words[0].permitted = words[0].inheritable = 1 << bind_service
        kernel._LIBC.prctl(8, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        kernel._LIBC.capset(ctypes.byref(header), words)
        kernel._prctl(47, 2, bind_service)  # PR_CAP_AMBIENT_RAISE
        before = kernel.capabilities()[3]
        jail.drop(jail.resolve("", "", ""))
        return before, kernel.capabilities()[3]

    assert in_child(work) == (1 << bind_service, 0)


# -- a step that fails is noticed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "claim"), [("setgroups", "supplementary groups"), ("setresgid", "group ids"), ("setresuid", "user ids")]
)
def test_a_call_that_does_nothing_is_noticed(call: str, claim: str) -> None:
    needs("root")

    def work() -> str:
        setattr(os, call, lambda *arguments: None)
        with pytest.raises(SetupError) as caught:
            jail.drop(Identity(NOBODY, NOBODY, (3,), "nobody", "nogroup", True))
        return str(caught.value)

    assert claim in in_child(work)


@pytest.mark.parametrize(
    ("call", "claim"),
    [("clear_capabilities", "capabilities"), ("forbid_new_privileges", "new privileges"), ("forbid_dumps", "dumps")],
)
def test_a_right_that_remains_is_noticed(call: str, claim: str) -> None:
    needs("root")

    def work() -> str:
        ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS, or the kernel clears some by itself
        setattr(drop_privileges.kernel, call, lambda: None)
        os.setresuid = noted(os.setresuid) if call == "forbid_dumps" else os.setresuid
        with pytest.raises(SetupError) as caught:
            jail.drop(Identity(NOBODY, NOBODY, (), "nobody", "nogroup", True))
        return str(caught.value)

    assert claim in in_child(work)


def noted(setresuid: Callable[[int, int, int], None]) -> Callable[[int, int, int], None]:
    """setresuid, followed by what a kernel with fs.suid_dumpable=1 does."""

    def call(*ids: int) -> None:
        setresuid(*ids)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)

    return call


def test_a_way_to_regain_root_is_noticed() -> None:
    needs("root")

    def work() -> str:
        kernel.forbid_new_privileges()
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setgroups([])
        os.setresuid(NOBODY, NOBODY, 0)
        with pytest.raises(SetupError) as caught:
            jail.verify(Identity(NOBODY, NOBODY, (), "nobody", "nogroup", True))
        return str(caught.value)

    text = in_child(work)
    assert "user ids" in text and "setuid to root succeeded" in text


def test_a_drop_that_the_kernel_refuses_is_an_error_in_one_line() -> None:
    needs("root")

    def work() -> tuple[str, bool]:
        with pytest.raises(SetupError) as caught:
            jail.drop(Identity(1, 1, (), "daemon", "daemon", True))
        return str(caught.value), caught.value.permission

    assert as_nobody(work) == ("cannot run as daemon:daemon: Operation not permitted", True)


def test_a_service_manager_that_allows_no_more_than_needed() -> None:
    """Without CAP_SETPCAP the bounding set stays; what the process holds goes all the same."""
    needs("root")

    def work() -> tuple[tuple[int, int, int, int], bool]:
        for number in kernel.bounding_set() - {6, 7, 10, 18}:  # CAP_SETGID, SETUID, NET_BIND_SERVICE, SYS_CHROOT
            kernel._prctl(24, number)
        kept = 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18
        words = (kernel._Word * 2)()
        words[0].effective = words[0].permitted = kept
        kernel._LIBC.capset(ctypes.byref(kernel._Header(kernel._CAPABILITY_VERSION, 0)), words)
        jail.drop(jail.resolve("nobody", "", ""))
        return kernel.capabilities(), kernel.new_privileges_forbidden()

    assert in_child(work) == ((0, 0, 0, 0), True)


def test_the_drop_needs_no_writable_code() -> None:
    """systemd's MemoryDenyWriteExecute=, as the kernel itself enforces it since Linux 6.3: PR_SET_MDWE."""
    needs("root")
    script = (
        "import mmap\n"
        "try:\n    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "except PermissionError:\n    pass\n"
        "else:\n    print('writable code')\n"
        "from pfxhttpd.io import jail\n"
        "jail.preload('pfxhttpd.io')\n"
        "jail.drop(jail.resolve('nobody', '', ''))\n"
        "print('done')\n"
    )

    known = in_child(lambda: ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0)

    def deny_writable_code() -> None:
        ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=deny_writable_code,
    )
    assert (done.stdout, done.stderr) == ("done\n" if known else "writable code\ndone\n", "")
