"""Takes from the child what it never needs: the network, new rights, and a look at its neighbours.

The child opens files that strangers made, with decoders written in C. Whoever breaks into one finds
a process that cannot open a connection, cannot gain rights through a setuid program, and cannot
read the memory or the environment of other processes, where keys are.

Four things of Linux do that, and none needs a privilege: no_new_privs (prctl(2)), a seccomp filter
(seccomp(2)), an empty Landlock domain (landlock(7)) and fewer capabilities (capset(2)), which root
has and which would open the others again. Where the kernel has one of them not, the
others still hold, and `seedvr2 doctor` says which is missing. Numbers are those of Linux's headers.

With a GPU this was never tried. As far as one can read, CUDA needs ioctl and mmap on /dev/nvidia*,
locked memory, memfd, eventfd, threads with affinities and unix sockets, an abstract one of its own
among them. All that stays. What is refused, it uses between processes (pidfd_getfd, connecting to
others' abstract sockets), and we share nothing with others. Device nodes can no longer be made.
SEEDVR2_CONFINE_CHILDREN=false leaves all of this out.
"""

import ctypes
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

MISSING = "missing: "
"""What a line about a part begins with that the kernel does not have."""
_CAPABILITY_VERSION = 0x20080522
_KEPT_CAPABILITIES = 0b11111 | 1 << 14
"""Rights of root over files, and to lock memory, which pinned buffers of a GPU may need."""
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION = 1
"""Flag of landlock_create_ruleset: return the version instead of making a rule set."""
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
"""Rights to make device nodes. A domain must handle some right, and the child needs neither."""
_SCOPES = 0b11
"""From version 6: no signals to, and no abstract sockets of, processes outside the domain."""

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET = {"x86_64": 41, "aarch64": 198}
_TRACING = {
    # ptrace, process_vm_readv, process_vm_writev, pidfd_getfd: into other processes.
    "x86_64": (101, 310, 311, 438),
    "aarch64": (117, 270, 271, 438),
}
_IO_URING_SETUP = 425
"""It can open sockets without the system call socket."""
_X32 = 0x40000000
"""Set in the numbers of x86-64's second table of system calls."""
_AF_UNIX, _AF_NETLINK = 1, 16
_EACCES = 13
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NR, _ARCH, _ARG0 = 0, 4, 16
"""Offsets in struct seccomp_data."""


def confine() -> dict[str, bool]:
    """Confine this process and all that it starts; to be called before it starts a thread.

    Returns:
        Each part in words, and whether the kernel has it.
    """
    _make_cuda_devices()
    steps: dict[str, Callable[[], bool]] = {
        "no new rights (no_new_privs)": _no_new_privs,
        "no network (seccomp)": _no_network,
        "no look at other processes (Landlock)": _own_domain,
        "no rights of root over other processes (capset)": _file_capabilities,
    }
    return {words: take() for words, take in steps.items()}


def _make_cuda_devices() -> None:
    """Let NVIDIA's setuid helper make the device files that CUDA would ask it for later.

    After the machine has started, the first CUDA program loads the module for unified memory this
    way. In a process without new rights the helper could not do so any more.
    """
    helper = shutil.which("nvidia-modprobe")
    if helper and Path("/dev/nvidiactl").exists() and not Path("/dev/nvidia-uvm").exists():
        subprocess.run([helper, "-c", "0", "-u"], check=False, stdin=subprocess.DEVNULL, timeout=30)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _no_new_privs() -> bool:
    return _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


def _no_network() -> bool:
    """Allow sockets of the families unix and netlink alone; False if the kernel takes no filter."""
    rules = socket_filter(platform.machine())
    if rules is None:
        return False
    code = ctypes.create_string_buffer(rules, len(rules))
    program = struct.pack("@HP", len(rules) // 8, ctypes.addressof(code))
    return _libc().prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0


def socket_filter(machine: str) -> bytes | None:
    """The seccomp program: classic BPF, 8 bytes an instruction.

    Args:
        machine: as `platform.machine` names it.

    Returns:
        None for a machine whose numbers of system calls we do not have.
    """
    if machine not in _AUDIT_ARCH:
        return None
    allow, deny = "allow", "deny"
    # (code, value, where to go if true, where if false); no place means the next instruction.
    lines: list[tuple[int, int, str, str]] = [
        (_LOAD, _ARCH, "", ""),
        (_EQUAL, _AUDIT_ARCH[machine], "", deny),
        (_LOAD, _NR, "", ""),
        (_AT_LEAST, _X32, deny, ""),
        *((_EQUAL, number, deny, "") for number in (*_TRACING[machine], _IO_URING_SETUP)),
        (_EQUAL, _SOCKET[machine], "", allow),
        (_LOAD, _ARG0, "", ""),
        (_EQUAL, _AF_UNIX, allow, ""),
        (_EQUAL, _AF_NETLINK, allow, deny),
        (_RETURN, _ERRNO | _EACCES, "", ""),
        (_RETURN, _ALLOW, "", ""),
    ]
    places = {deny: len(lines) - 2, allow: len(lines) - 1}
    program = b""
    for position, (code, value, *ways) in enumerate(lines):
        true, false = (places[way] - position - 1 if way else 0 for way in ways)
        program += struct.pack("=HBBI", code, true, false, value)
    return program


def _own_domain() -> bool:
    """Enter an empty Landlock domain: processes outside it can be neither traced nor read."""
    libc = _libc()
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return False
    scopes = _SCOPES if version >= 6 else 0
    rules = struct.pack("=QQQ", _MAKE_CHAR | _MAKE_BLOCK, 0, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    domain = libc.syscall(_LANDLOCK_CREATE_RULESET, rules[:size], ctypes.c_size_t(size), 0)
    if domain < 0:
        return False
    try:
        return libc.syscall(_LANDLOCK_RESTRICT_SELF, domain, 0) == 0
    finally:
        os.close(domain)


def _file_capabilities() -> bool:
    """Give up what root may do, but for files and locked memory; other users have nothing of it."""
    libc = _libc()
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    sets = ctypes.create_string_buffer(24)  # effective, permitted, inheritable, twice 32 bits
    if libc.capget(header, sets) != 0:
        return False
    effective, permitted, *_ = struct.unpack("=6I", sets.raw)
    kept = struct.pack(
        "=6I", effective & _KEPT_CAPABILITIES, permitted & _KEPT_CAPABILITIES, *[0] * 4
    )
    return libc.capset(header, kept) == 0


if __name__ == "__main__":
    for words, held in confine().items():  # `seedvr2 doctor` reads these lines
        print(words if held else MISSING + words)  # noqa: T201 - the answer to who started us
