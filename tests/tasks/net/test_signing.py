"""Signatures: one secret for each receiver, none of which tells another."""

import hashlib
import hmac

from pydantic import SecretStr

from tasks.net.signing import key_id, receiver_secret, signature

SECRET = SecretStr("a secret of sixteen")


def parts(value: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in value.split(","))


def test_receivers_have_secrets_of_their_own() -> None:
    hosts = ["a.example", "b.example", "127.0.0.1", "::1"]
    secrets = {receiver_secret(SECRET, host) for host in hosts}
    assert len(secrets) == len({key_id(secret) for secret in secrets}) == len(hosts)
    assert receiver_secret(SECRET, "A.Example") == receiver_secret(SECRET, "a.example")
    other = SecretStr("another secret of the operator")
    assert receiver_secret(other, "a.example") not in secrets
    assert all(len(secret) == 64 for secret in secrets)


def test_a_signature_names_its_key() -> None:
    told = parts(signature(b"body", SECRET, host="a.example", timestamp=17))
    own = receiver_secret(SECRET, "a.example")
    right = hmac.new(own.encode(), b"17.body", hashlib.sha256).hexdigest()
    assert (told["t"], told["k"], told["v2"]) == ("17", key_id(own), right)
    assert own not in told.values()


def test_receivers_of_before_still_find_theirs() -> None:
    told = parts(signature(b"body", SECRET, host="a.example", timestamp=17))
    key = SECRET.get_secret_value().encode()
    assert told["v1"] == hmac.new(key, b"17.body", hashlib.sha256).hexdigest()
