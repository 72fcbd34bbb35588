"""The last net: what looks like a secret is taken out of a text before others read it.

No code writes secrets into logs or events; libraries' messages may. What is recognised: secrets of API keys,
passwords and signatures inside URLs, tokens of headers, and the values of this process's own secret
variables (`..._SECRET_ACCESS_KEY`, `..._PASSWORD`, `..._TOKEN`).
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import Any

from models.api_key import SECRET

HIDDEN = "***"
IN_TEXT = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(whsec_|hf_)[\w+/=-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)([?&](?:x-amz-signature|signature|token|sig)=)[^&\s\"]+"), rf"\1{HIDDEN}"),
    (SECRET, rf"axf_\1_{HIDDEN}"),
    (re.compile(r"(?<=://)([^\s/:@\"']*):[^\s/@\"']+@"), rf"\1:{HIDDEN}@"),
)
MARKS = ("bearer", "basic", "whsec_", "hf_", "signature=", "token=", "sig=", "axf_", "://")
"""No pattern finds anything in a text that has none of these. Hardly any line of a log has, and the
patterns cost as much as all else that is done for a line."""
SECRET_NAMES = re.compile(r"(SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|_KEY$)")
SHORTEST_VALUE = 8


def redact(text: str) -> str:
    """The text with every secret that is recognised replaced by `***`."""
    lowered = text.lower()
    if any(mark in lowered for mark in MARKS):
        for pattern, replacement in IN_TEXT:
            text = pattern.sub(replacement, text)
    for value in _own_secrets():
        text = text.replace(value, HIDDEN)
    return text


def redact_document(value: Any) -> Any:
    """A JSON value with every text in it redacted, those of keys included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(name): redact_document(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_document(each) for each in value]
    return value


@cache
def _own_secrets() -> tuple[str, ...]:
    """Values of this process's secret variables; short ones would be found in innocent words."""
    found = {value for name, value in os.environ.items() if SECRET_NAMES.search(name)}
    return tuple(sorted((value for value in found if len(value) >= SHORTEST_VALUE), key=len, reverse=True))
