"""Which variables the code reads, so that no file sets one that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic_settings import BaseSettings

import app.settings
import models.settings
from worker.alive import VARIABLE


def unknown(names: Iterable[str]) -> set[str]:
    """The `AXFORGE_...` of these that no settings know."""
    return {name for name in names if name.startswith("AXFORGE_")} - _known()


def _known() -> set[str]:
    found = {VARIABLE}
    for module in (app.settings, models.settings):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, BaseSettings) and kind is not BaseSettings:
                prefix = kind.model_config["env_prefix"]
                found |= {f"{prefix}{name}".upper() for name in kind.model_fields}
    return found
