"""Who may look: everybody on this machine, or who knows the token.

Pure. Without a token only loopback is listened on, and only requests for a name of loopback are answered: a page of
another site, whose name was made to lead here, could read ours otherwise.
"""

import base64
import binascii
import hmac
import ipaddress

from policy import endpoints

LEAST_TOKEN = 16
"""Characters: nobody guesses that many."""


def check(listen: str, token: str) -> None:
    """Find out whether the page may be served like this.

    Raises:
        ValueError: it may not; the text names key, value and cure.
    """
    address = endpoints.parse(listen, key="web.listen")
    if token and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ValueError(
            f"web.token: give at least {LEAST_TOKEN} printable ASCII characters, for example of a password generator"
        )
    if isinstance(address, endpoints.InetAddress) and not token and not _is_loopback(address.host):
        cure = "set web.token, or listen on inet:127.0.0.1 and put a reverse proxy before it"
        raise ValueError(f'web.listen = "{listen}": everybody who reaches it could look: {cure}')


def is_for_us(host: str | None) -> bool:
    """Tell whether a Host header names loopback."""
    if host is None:
        return False
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name = host
    return _is_loopback(name.strip("[]"))


def knows(authorization: str | None, token: str) -> bool:
    """Tell whether an Authorization header has the token: ``Bearer``, or the password of ``Basic`` (RFC 7617)."""
    scheme, _, credentials = (authorization or "").partition(" ")
    given = credentials.strip()
    if scheme.lower() == "basic":
        try:
            _, _, given = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.encode(), token.encode())


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
