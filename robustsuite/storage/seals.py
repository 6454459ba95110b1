"""Text that says whether it is as it was written: a JSON object whose last entry is a digest of all before it.

This finds what a disk, a careless edit or a killed process did. It is no protection against somebody who computes the
digest again; whoever needs that signs the files.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

SEAL: Final = "seal"
_END: Final = re.compile(rb'\A(\{.+),"seal":"([0-9a-f]{24})"\}\Z', re.DOTALL)


def sealed(text: str) -> str:
    """A JSON object with its digest as a last entry.

    Args:
        text: A JSON object that is not empty.

    Example:
        >>> sealed('{"a":1}')
        '{"a":1,"seal":"015abd7f5cc57a2dd94b7590"}'
    """
    return f'{text[:-1]},"{SEAL}":"{digest_of(text.encode())}"}}'


def unsealed(content: bytes) -> bytes | None:
    """The object as it was before `sealed`; None where it has no digest, or one that is not its own.

    Example:
        >>> unsealed(sealed('{"a":1}').encode())
        b'{"a":1}'
        >>> unsealed(sealed('{"a":1}').replace("1", "2", 1).encode()) is None
        True
    """
    found = _END.match(content)
    if found is None:
        return None
    text = found[1] + b"}"
    return text if digest_of(text).encode() == found[2] else None


def seal_of(content: bytes) -> str:
    """The digest that an object carries as its last entry, empty where it carries none."""
    found = _END.match(content)
    return "" if found is None else found[2].decode()


def digest_of(content: bytes) -> str:
    """24 hexadecimal digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()[:24]
