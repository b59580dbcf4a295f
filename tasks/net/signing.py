"""Signatures of what we send to addresses that strangers chose.

Each receiver has a secret of its own, which is made from the operator's one secret and the
receiver's host. So a receiver can check what comes to it, and can sign nothing for another one.
"""

import hashlib
import hmac

from pydantic import SecretStr

_PURPOSE = b"seedvr2 callback receiver: "
_KEY_ID_DIGITS = 8


def receiver_secret(secret: SecretStr, host: str) -> str:
    """The secret of one receiver, in hex.

    Args:
        secret: the operator's (SEEDVR2_CALLBACK_SECRET).
        host: host name or IP address of the receiver as it goes over the wire, without port.
    """
    return _hmac(secret.get_secret_value(), _PURPOSE + host.lower().encode())


def key_id(receiver: str) -> str:
    """A name of a receiver's secret that may be shown: it says which secret signed a message."""
    return hashlib.sha256(receiver.encode()).hexdigest()[:_KEY_ID_DIGITS]


def signature(body: bytes, secret: SecretStr, *, host: str, timestamp: int) -> str:
    """Value of the signature header: HMAC-SHA256 over "timestamp.body" with two keys.

    `k` names the receiver's secret and `v2` is made with it. `v1` is made with the operator's own
    secret, for receivers that were set up when there was no other.

    Args:
        body: the message.
        secret: the operator's.
        host: of the receiver, as for `receiver_secret`.
        timestamp: seconds since the epoch.
    """
    signed = f"{timestamp}.".encode() + body
    own = receiver_secret(secret, host)
    old = _hmac(secret.get_secret_value(), signed)
    return f"t={timestamp},v1={old},k={key_id(own)},v2={_hmac(own, signed)}"


def _hmac(key: str, message: bytes) -> str:
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()
