"""Taking out of texts what is nobody's business: the user's name, private paths, secrets."""

import getpass
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What secrets look like wherever they stand: keys of well-known services, and anything that is called one.
_SECRETS = (
    r"\b(?:hf|ghp|gho|ghu|ghs|glpat|pypi|sk|rk|xox[abprs])[_-][A-Za-z0-9_-]{10,}",
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bAKIA[0-9A-Z]{12,}",
    r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*",
    r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----",
)
_NAMED = re.compile(
    r"(?i)\b([\w-]*(?:token|secret|password|passwd|api_?key|auth)[\w-]*)(\"?\s*[=:]\s*\"?)(?!<)([^\s\"',;&{}\[\]]{4,})"
)
_CALLED = re.compile(r"(?i)token|secret|password|passwd|api_?key|credential|auth")
# Words that hold tokens of another kind.
_INNOCENT = re.compile(r"(?i)(text|audio)[ _]tokens?$|tokenizer|^tokens$")
_HOMES = re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\+Users\\+)[^/\\\s\"':]+")
_FOLDER = re.compile(r"(?<![\w.~<>/-])(?:/[\w.@+~-]+){2,}/?")
HIDDEN, HOME = "<secret removed>", "~"


def scrubbed(text: str) -> str:
    """The text without secrets, home folders, user name and host name; absolute paths are cut to their last part."""
    for pattern in _SECRETS:
        text = re.sub(pattern, HIDDEN, text)
    text = _NAMED.sub(lambda found: found[0] if _INNOCENT.search(found[1]) else f"{found[1]}{found[2]}{HIDDEN}", text)
    for value in _environment():
        text = text.replace(value, HIDDEN)
    for home in sorted({str(Path.home()), os.path.expanduser("~")}, key=len, reverse=True):  # noqa: PTH111
        if len(home) > 1:
            text = re.sub(re.escape(home) + r"(?=[/\\\s\"':]|$)", HOME, text)
    text = _HOMES.sub(HOME, text)
    text = _FOLDER.sub(lambda found: f".../{found[0].rstrip('/').rpartition('/')[2]}", text)
    for name in _names():
        text = re.sub(rf"\b{re.escape(name)}\b", "<user>", text)
    return text


def scrubbed_facts(facts: Any) -> Any:
    """The same of every string in nested lists and mappings; values under a name that means a secret are removed."""
    if isinstance(facts, str):
        return scrubbed(facts)
    if isinstance(facts, Mapping):
        return {
            scrubbed(str(key)): HIDDEN if _CALLED.search(str(key)) and not _INNOCENT.search(str(key)) and isinstance(value, str)
            else scrubbed_facts(value)
            for key, value in facts.items()
        }  # fmt: skip
    if isinstance(facts, list | tuple):
        return [scrubbed_facts(value) for value in facts]
    return facts


def _environment() -> list[str]:
    """Values of environment variables whose names mean secrets, the longest first."""
    found = {value for name, value in os.environ.items() if _CALLED.search(name) and len(value) >= 6}
    return sorted(found, key=len, reverse=True)


def _names() -> list[str]:
    try:
        names = {getpass.getuser(), os.uname().nodename if hasattr(os, "uname") else ""}
    except (OSError, KeyError):
        names = set()
    # Names that are words of every report stay.
    return [name for name in names if len(name) > 2 and name not in ("root", "user", "localhost", "runner", "admin")]
