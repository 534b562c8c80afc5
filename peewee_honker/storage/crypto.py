"""Encrypted values: AES-256-GCM under a key that is derived from a password, by the `cryptography` package (extra `crypto`).

An encrypted value is JSON: `{"keyVersion": 2, "salt": ..., "iv": ..., "data": ...}`, base64 texts. `data` is the ciphertext
with its 16-byte tag, `iv` 12 random bytes, `salt` 16 random bytes. The key is PBKDF2-HMAC-SHA256 of the password and the
salt: 100,000 rounds for version 1 and 200,000 for version 2. Other programs read and write the same form.
"""

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypedDict

from peewee_honker.storage.errors import StorageError

__all__ = ["KEY_VERSION", "DecryptionError", "Encrypted", "Keys", "decrypt", "encrypt", "generate_encryption_key"]

_ROUNDS = {1: 100_000, 2: 200_000}
KEY_VERSION = max(_ROUNDS)
"""The version that is written unless another is asked for."""
_SALT, _IV, _TAG = 16, 12, 16  # bytes
_DERIVED = 256  # keys that are remembered: one takes tens of milliseconds


class Encrypted(TypedDict):
    """An encrypted value."""

    keyVersion: int
    salt: str
    iv: str
    data: str


class DecryptionError(StorageError):
    """A value could not be decrypted: the wrong key or version, or data that is cut or changed. Which of these is not said,
    since that would help who tries."""

    def __init__(self) -> None:
        super().__init__("the value cannot be decrypted")


def generate_encryption_key() -> str:
    """A new password: 32 random bytes as base64 text. Keep it outside of the database."""
    return base64.b64encode(os.urandom(32)).decode()


def encrypt(text: str, password: str, *, version: int = KEY_VERSION, context: str = "") -> Encrypted:
    """Encrypt a text.

    Arguments:
        text: what to keep secret; any text that UTF-8 can hold.
        password: from `generate_encryption_key`, or as strong.
        version: how the key is derived, see above.
        context: what the value belongs to. It is not kept in the value, and decrypting asks for the same: so a value that is
            moved to another place cannot be read there.

    Each call draws a new salt and derives a key, which takes tens of milliseconds on purpose; `Keys` derives one for many.

    Raises ValueError for an empty password, an unknown version or a text that UTF-8 cannot hold, StorageError when
    cryptography is not installed.
    """
    return Keys(password, version=version).encrypt(text, context=context)


def decrypt(value: Mapping[str, Any], password: str, *, context: str = "") -> str:
    """The text of an encrypted value. Raises DecryptionError, whatever the reason."""
    return Keys(password).decrypt(value, context=context)


class Keys:
    """A password, and those before it: encrypts with the first, decrypts with the one that a value was made with.

        keys = Keys(os.environ["APP_KEY"], before=[os.environ["APP_KEY_OF_LAST_YEAR"]])

    Arguments:
        password: encrypts from now on.
        before: passwords of values that have not been encrypted anew yet.
        version: how keys are derived for what is encrypted.

    One salt is drawn for each `Keys` object and thousand values, so that one key serves many values, each with an iv of its
    own; a GCM key with random ivs is good for 2**32 values (NIST SP 800-38D, section 8.3). Never tells its passwords.
    """

    _VALUES_OF_A_SALT = 1000

    def __init__(self, password: str, *, before: Sequence[str] = (), version: int = KEY_VERSION) -> None:
        if isinstance(before, str):  # whose letters would be passwords
            raise TypeError("before is a list of passwords, also when it is one: before=[password]")
        if not password or not all(before):
            raise ValueError("a password is not empty: generate_encryption_key() makes one")
        if not all(isinstance(one, str) for one in (password, *before)):
            raise TypeError("a password is text")
        if version not in _ROUNDS:
            raise ValueError(f"the version is one of {', '.join(map(str, _ROUNDS))}, not {version!r}")
        self.version = version
        self._passwords = (password, *before)
        self._salt, self._left = b"", 0

    def __repr__(self) -> str:
        return f"Keys(<{len(self._passwords)} passwords>, version={self.version})"

    def __reduce__(self) -> str:
        raise TypeError("Keys are not pickled: they would leave the process")

    def __deepcopy__(self, memo: Any) -> "Keys":
        return self  # Peewee copies the fields that a model inherits

    def encrypt(self, text: str, *, context: str = "") -> Encrypted:
        """As the function `encrypt`."""
        try:
            plain = text.encode()
        except UnicodeEncodeError:  # which holds the text
            raise ValueError("the text has characters that UTF-8 cannot hold") from None
        if self._left <= 0:
            self._salt, self._left = os.urandom(_SALT), self._VALUES_OF_A_SALT
        self._left -= 1
        salt, iv = self._salt, os.urandom(_IV)
        data = _cipher(self._passwords[0], salt, self.version).encrypt(iv, plain, context.encode() or None)
        return {"keyVersion": self.version, "salt": _text(salt), "iv": _text(iv), "data": _text(data)}

    def decrypt(self, value: Any, *, context: str = "") -> str:
        """As the function `decrypt`."""
        return self._decrypted(value, context)[0]

    def is_current(self, value: Any, *, context: str = "") -> bool:
        """Whether a value is encrypted with the first password and the version that is written. Raises DecryptionError."""
        return self._decrypted(value, context)[1] == 0 and value["keyVersion"] == self.version

    def _decrypted(self, value: Any, context: str) -> tuple[str, int]:
        """The text, and the number of the password."""
        version, salt, iv, data = _parts(value)
        for number, password in enumerate(self._passwords):
            text = _opened(_cipher(password, salt, version), iv, data, context)
            if text is not None:
                return text, number
        raise DecryptionError


def _parts(value: Any) -> tuple[int, bytes, bytes, bytes]:
    if not isinstance(value, Mapping) or set(value) != {"keyVersion", "salt", "iv", "data"}:
        raise DecryptionError
    version = value["keyVersion"]
    if type(version) is not int or version not in _ROUNDS:
        raise DecryptionError
    salt, iv, data = (_bytes(value[name]) for name in ("salt", "iv", "data"))
    if len(salt) != _SALT or len(iv) != _IV or len(data) < _TAG:
        raise DecryptionError
    return version, salt, iv, data


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise DecryptionError
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DecryptionError from None
    if _text(found) != text:  # one value, one text: bits that base64 ignores are a change too
        raise DecryptionError
    return found


def _opened(cipher: Any, iv: bytes, data: bytes, context: str) -> str | None:
    from cryptography.exceptions import InvalidTag

    try:
        text: bytes = cipher.decrypt(iv, data, context.encode() or None)
        return text.decode()
    except (InvalidTag, UnicodeDecodeError):
        return None


@lru_cache(maxsize=_DERIVED)
def _cipher(password: str, salt: bytes, version: int) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
    except ImportError as error:
        raise StorageError("encrypting needs cryptography: pip install 'peewee-honker[crypto]'") from error
    derivation = PBKDF2HMAC(algorithm=SHA256(), length=32, salt=salt, iterations=_ROUNDS[version])
    return AESGCM(derivation.derive(password.encode()))
