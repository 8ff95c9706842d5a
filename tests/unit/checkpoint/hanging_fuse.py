"""A file system that is read-only and empty, and hangs while its process is stopped: ``python -m ... DIRECTORY``.

Speaks the kernel's FUSE protocol itself, so that no library is needed; it needs root and ``/dev/fuse``. Says ``ready``, or
why it cannot be, on standard output.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_HEADER = struct.Struct("<IIQQIIII")
_ANSWER = struct.Struct("<IiQ")
_LOOKUP, _FORGET, _GETATTR, _INIT, _INTERRUPT, _BATCH_FORGET = 1, 2, 3, 26, 36, 42
_SILENT = (_FORGET, _INTERRUPT, _BATCH_FORGET)
_DIRECTORY = 0o040700
_DETACH = 2


def main(place: str) -> int:
    """Mount and serve until the file system is unmounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        print(error.strerror, flush=True)
        return 1
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    if libc.mount(b"hanging", place.encode(), b"fuse", 6, options.encode()):
        print(os.strerror(ctypes.get_errno()), flush=True)
        return 1
    print("ready", flush=True)
    while True:
        try:
            request = os.read(device, 1 << 18)
        except OSError as error:
            return 0 if error.errno == errno.ENODEV else 1
        _, opcode, unique, *_ = _HEADER.unpack_from(request)
        if opcode not in _SILENT:
            code, body = answer(opcode)
            os.write(device, _ANSWER.pack(_ANSWER.size + len(body), -code, unique) + body)


def answer(opcode: int) -> tuple[int, bytes]:
    """Error number and body."""
    if opcode == _INIT:
        return 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 1, 1, 65536, 1, 0, 0, 0)
    if opcode == _GETATTR:
        times, nanoseconds = (0, 0, 0), (0, 0, 0)
        return 0, struct.pack("<QII6Q10I", 0, 0, 0, 1, 0, 0, *times, *nanoseconds, _DIRECTORY, 2, os.getuid(), os.getgid(),
                              0, 4096, 0)
    return errno.ENOENT if opcode == _LOOKUP else errno.EROFS, b""


def unmount(place: str) -> None:
    """Whoever hangs in it gets an error."""
    ctypes.CDLL(None).umount2(place.encode(), _DETACH)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
