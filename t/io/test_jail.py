"""The descent, made for real in children: who they are afterwards, and that there is no way back."""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit.child import ChildFailed, in_child
from kit.needs import needs

from pfxhttpd.io import SetupError, jail
from pfxhttpd.io.jail import Identity, drop_privileges, kernel

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that can be a jail for anybody."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    directory.chmod(0o755)
    (directory / "etc").mkdir()
    for name in jail.identity.JAIL_FILES:
        (directory / name).write_text("")
    yield directory
    shutil.rmtree(directory)


def status() -> dict[str, str]:
    """The fields of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition(":") for line in lines)}


def refusal(user: str, group: str, chroot: str) -> SetupError:
    with pytest.raises(SetupError) as caught:
        jail.resolve(user, group, chroot)
    assert "\n" not in str(caught.value)
    return caught.value


def as_nobody(work: Callable[[], object]) -> object:
    """What `work` returns in a child that is nobody, without any other right."""

    def child() -> object:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return work()

    return in_child(child)


# --- who


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


def test_a_group_alone_clears_the_others_and_gives_up_roots_rights() -> None:
    needs("root")
    assert jail.resolve("", "daemon", "") == Identity(0, 1, (1,), "root", "daemon", True)


def test_root_that_is_asked_for_nothing_stays() -> None:
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
def test_names_that_nobody_has(user: str, group: str, reason: str) -> None:
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
def test_without_root_nothing_else_can_be_asked_for(user: str, group: str, chroot: str, reason: str) -> None:
    needs("root")

    def work() -> tuple[str, bool]:
        failure = refusal(user, group, chroot)
        return str(failure), failure.permission

    assert as_nobody(work) == (reason, True)


@pytest.mark.parametrize(("user", "group"), [("", ""), ("nobody", ""), ("nobody", "nogroup"), ("", str(NOBODY))])
def test_without_root_one_may_ask_for_what_one_is(user: str, group: str) -> None:
    needs("root")
    assert as_nobody(lambda: jail.resolve(user, group, "")) == Identity(NOBODY, NOBODY, (), "nobody", "nogroup", False)


def test_an_account_without_a_name_is_no_hindrance() -> None:
    needs("root")

    def work() -> Identity:
        os.setgroups([])
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
        identity = jail.resolve("", "", "")
        jail.drop(identity)
        return identity

    assert in_child(work) == Identity(54321, 54321, (), "54321", "54321", False)


# --- where


def test_a_jail_with_its_three_files(root: Path) -> None:
    needs("root")
    assert jail.missing(str(root)) == []
    assert jail.resolve("nobody", "", str(root)).drops


def test_a_jail_that_lacks_files_is_refused_with_their_names(root: Path) -> None:
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
def test_places_that_are_no_jail(path: str, part: str) -> None:
    needs("root")
    assert part in str(refusal("nobody", "", path))


def test_links_are_followed_as_the_jail_will_see_them(root: Path) -> None:
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


def test_files_that_the_user_cannot_read_are_told_after_the_descent(root: Path) -> None:
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


# --- the descent


def test_afterwards_every_id_is_the_users_and_nothing_of_root_is_left() -> None:
    needs("root")

    def work() -> tuple[dict[str, str], int, tuple[int, int]]:
        os.setgroups([0, 4, 6])
        jail.drop(jail.resolve("nobody", "", ""))
        return status(), os.umask(0), resource.getrlimit(resource.RLIMIT_CORE)

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


def test_nobody_else_can_look_into_the_process() -> None:
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


def test_root_cannot_be_had_back() -> None:
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


def test_the_jail_has_no_way_out(root: Path) -> None:
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


def test_root_in_a_jail_has_no_way_out_either(root: Path) -> None:
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


def test_root_that_stays_keeps_its_rights_but_dumps_no_core() -> None:
    needs("root")

    def work() -> tuple[bool, dict[str, str]]:
        before = kernel.capabilities()
        jail.drop(jail.resolve("", "", ""))
        return kernel.capabilities() == before and before[0] != 0, status()

    same, fields = in_child(work)
    assert same and fields["NoNewPrivs"] == "1" and fields["Uid"] == "0 0 0 0"


def test_without_root_nothing_is_asked_for_but_everything_is_given_up() -> None:
    needs("root")

    def work() -> tuple[dict[str, str], tuple[int, int]]:
        os.setgroups([4])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: what systemd's AmbientCapabilities= would leave
        os.setresuid(NOBODY, NOBODY, NOBODY)
        assert kernel.capabilities()[1] != 0
        jail.drop(jail.resolve("", "", ""))
        return status(), resource.getrlimit(resource.RLIMIT_CORE)

    fields, core = in_child(work)
    assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1" and core == (0, 0) and fields["Groups"] == "4"


def test_ambient_capabilities_are_given_up() -> None:
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


# --- nothing goes wrong in silence


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
def test_a_right_that_stays_is_noticed(call: str, claim: str) -> None:
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


def test_a_way_back_is_noticed() -> None:
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


def test_a_descent_that_the_kernel_refuses_is_an_error_in_one_line() -> None:
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


def test_the_descent_needs_no_writable_code() -> None:
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
