"""A second system-call filter, laid over the engine's own before any model code runs.

What the engine's default profile lets through depends on its version (io_uring, vsock, netlink, ptrace of
a sibling); this filter does not. It is written through libseccomp, so it holds on x86-64 and arm64 alike,
it is inherited by every child and cannot be taken off. Foreign and 32-bit calls are refused whole.
"""

import ctypes
import errno

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_ATTR_BADARCH, _ATTR_NNP, _ATTR_TSYNC = 2, 3, 4
_NOT_EQUAL, _MASKED_EQUAL = 1, 7
_AF_UNIX = 1
_CLONE_NEW_FLAGS = (
    0x00000080,  # time
    0x00020000,  # mount
    0x02000000,  # cgroup
    0x04000000,  # uts
    0x08000000,  # ipc
    0x10000000,  # user
    0x20000000,  # pid
    0x40000000,  # net
)

DENIED = """
    socket io_uring_setup io_uring_enter io_uring_register userfaultfd bpf
    keyctl add_key request_key perf_event_open ptrace process_vm_readv process_vm_writev process_madvise
    kcmp pidfd_getfd unshare setns mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick open_tree
    move_mount mount_setattr kexec_load kexec_file_load init_module finit_module delete_module reboot
    swapon swapoff syslog acct settimeofday clock_settime adjtimex clock_adjtime iopl ioperm quotactl
    quotactl_fd name_to_handle_at open_by_handle_at fanotify_init fanotify_mark memfd_secret vmsplice
    modify_ldt personality mbind set_mempolicy migrate_pages move_pages sethostname setdomainname seccomp
    lookup_dcookie nfsservctl uselib ustat sysfs vhangup
""".split()
"""System calls that answer EPERM. Names that an architecture does not have are skipped."""


class _Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def install() -> int:
    """Install the filter for this process and all it will start; returns the number of rules.

    Raises OSError when any part of it cannot be had: there is no running without it.
    """
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = [ctypes.c_uint32]
    lib.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    lib.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    lib.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Compare),
    ]
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    lib.seccomp_release.argtypes = [ctypes.c_void_p]

    context = lib.seccomp_init(_ALLOW)
    if not context:
        raise OSError(errno.ENOSYS, "seccomp_init failed")
    rules = 0

    def add(name: str, compare: tuple[int, int, int, int] | None = None, code: int = errno.EPERM) -> None:
        nonlocal rules
        number = lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        comparisons = (_Compare * 1)(_Compare(*compare)) if compare else None
        result = lib.seccomp_rule_add_array(context, _ERRNO | code, number, 1 if compare else 0, comparisons)
        if result:
            raise OSError(-result, f"no seccomp rule for {name}")
        rules += 1

    def setting(attribute: int, value: int) -> None:
        if result := lib.seccomp_attr_set(context, attribute, value):
            raise OSError(-result, f"seccomp attribute {attribute} refused")

    try:
        setting(_ATTR_BADARCH, _ERRNO | errno.EPERM)
        setting(_ATTR_NNP, 1)
        setting(_ATTR_TSYNC, 1)
        for name in DENIED:
            add(name)
        add("socketpair", (0, _NOT_EQUAL, _AF_UNIX, 0))
        for flag in _CLONE_NEW_FLAGS:
            add("clone", (0, _MASKED_EQUAL, flag, flag))
        # clone3 hides its flags in memory; with ENOSYS libc falls back to clone, whose flags are seen.
        add("clone3", code=errno.ENOSYS)
        if result := lib.seccomp_load(context):
            raise OSError(-result, "the kernel refused the seccomp filter")
    finally:
        lib.seccomp_release(context)
    return rules
