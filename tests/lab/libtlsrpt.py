"""libtlsrpt's C interface (tlsrpt.h of 0.5) through ctypes: a shared object by its path, each function with its types.

Nothing is made nicer: functions return the library's numbers, and what a handle points to is the library's. Octets go
in as they are; ``None`` is a null pointer.
"""

import ctypes
import dataclasses
import pathlib

Handle = ctypes.c_void_p
"""``struct tlsrpt_connection_t *`` or ``struct tlsrpt_dr_t *``."""

ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)
RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_TEXT = ctypes.c_char_p
_REFERENCE = ctypes.POINTER(ctypes.c_void_p)

_FUNCTIONS = {
    "tlsrpt_open": (ctypes.c_int, _REFERENCE, _TEXT),
    "tlsrpt_close": (ctypes.c_int, _REFERENCE),
    "tlsrpt_init_delivery_request": (ctypes.c_int, _REFERENCE, Handle, _TEXT, _TEXT),
    "tlsrpt_cancel_delivery_request": (ctypes.c_int, _REFERENCE),
    "tlsrpt_finish_delivery_request": (ctypes.c_int, _REFERENCE),
    "tlsrpt_init_policy": (ctypes.c_int, Handle, ctypes.c_int, _TEXT),
    "tlsrpt_finish_policy": (ctypes.c_int, Handle, ctypes.c_int),
    "tlsrpt_add_policy_string": (ctypes.c_int, Handle, _TEXT),
    "tlsrpt_add_mx_host_pattern": (ctypes.c_int, Handle, _TEXT),
    "tlsrpt_add_delivery_request_failure": (ctypes.c_int, Handle, ctypes.c_int, *([_TEXT] * 6)),
    "tlsrpt_errno_from_error_code": (ctypes.c_int, ctypes.c_int),
    "tlsrpt_error_code_is_internal": (ctypes.c_int, ctypes.c_int),
    "tlsrpt_strerror": (_TEXT, ctypes.c_int),
    "tlsrpt_set_blocking": (None,),
    "tlsrpt_set_nonblocking": (None,),
    "tlsrpt_get_socket": (ctypes.c_int, Handle),
    "tlsrpt_set_malloc_and_free": (None, ALLOCATE, RELEASE),
}
"""Each function with the types of its result and of its arguments."""


def load(root: pathlib.Path) -> ctypes.CDLL:
    """Return the library of an unpacked package."""
    (path,) = root.glob("usr/lib/*/libtlsrpt.so.0")
    library = ctypes.CDLL(str(path.resolve()))
    for name, (result, *arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def functions() -> frozenset[str]:
    """Return the names of all functions that are known here."""
    return frozenset(_FUNCTIONS)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """The arguments of ``tlsrpt_add_delivery_request_failure``."""

    code: int
    sending_mta_ip: bytes | None = None
    receiving_mx_hostname: bytes | None = None
    receiving_mx_helo: bytes | None = None
    receiving_ip: bytes | None = None
    additional_information: bytes | None = None
    failure_reason_code: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """The arguments of all that is called for one policy."""

    kind: int
    domain: bytes | None = None
    strings: tuple[bytes, ...] = ()
    mx_hosts: tuple[bytes, ...] = ()
    failures: tuple[Failure, ...] = ()
    final: int = 0


def report(
    library: ctypes.CDLL, connection: Handle, domain: bytes, record: bytes, policies: tuple[Policy, ...]
) -> list[int]:
    """Make all calls for one delivery request, as an MTA does; return what they returned, in order."""
    request = Handle()
    codes = [library.tlsrpt_init_delivery_request(ctypes.byref(request), connection, domain, record)]
    for policy in policies:
        codes.append(library.tlsrpt_init_policy(request, policy.kind, policy.domain))
        codes.extend(library.tlsrpt_add_policy_string(request, text) for text in policy.strings)
        codes.extend(library.tlsrpt_add_mx_host_pattern(request, text) for text in policy.mx_hosts)
        codes.extend(
            library.tlsrpt_add_delivery_request_failure(
                request,
                failure.code,
                failure.sending_mta_ip,
                failure.receiving_mx_hostname,
                failure.receiving_mx_helo,
                failure.receiving_ip,
                failure.additional_information,
                failure.failure_reason_code,
            )
            for failure in policy.failures
        )
        codes.append(library.tlsrpt_finish_policy(request, policy.final))
    codes.append(library.tlsrpt_finish_delivery_request(ctypes.byref(request)))
    return codes
