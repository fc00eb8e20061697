"""What settings are made of: fields that become flags, and the short lists and sums written as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from .competition import ORGANS


def setting(default: Any, help: str, **more: Any) -> Any:
    """A dataclass field with the text, and optionally the choices and bounds, of its flag."""
    return field(default=default, metadata={"help": help, **more})


def organ_values(value: float | str | Mapping[str, float], fallback: float | Mapping[str, float]) -> dict[str, float]:
    """One number for each organ.

    Args:
        value: A number for all organs; a mapping from organ to number; or text such as
            ``"0.4"``, ``"prostate=1.6"`` or ``"0.4,prostate=1.6"`` (a number on its own is for
            all organs not named).
        fallback: For organs that `value` does not name: a number, or one of each organ.

    Returns:
        Organ to positive number, all five organs.

    Raises:
        ValueError: An unknown organ, or a number that is not positive.
    """
    if isinstance(value, (int, float)):
        value = {organ: float(value) for organ in ORGANS}
    elif isinstance(value, str):
        named = {}
        for part in value.split(","):
            organ, sep, number = part.rpartition("=")
            try:
                named[organ.strip()] = float(number)
            except ValueError:
                raise ValueError(f"{part!r} is not a number or organ=number; write for example prostate=1.6") from None
            if sep and not organ.strip():
                raise ValueError(f"{part!r} names no organ; write for example prostate=1.6")
        fallback = named.pop("", fallback)
        value = named
    unknown = sorted(set(value) - set(ORGANS))
    if unknown:
        raise ValueError(f"unknown organ {', '.join(unknown)}; the organs are {', '.join(ORGANS)}")
    default = fallback if isinstance(fallback, Mapping) else dict.fromkeys(ORGANS, fallback)
    result = {organ: float(value[organ] if organ in value else default[organ]) for organ in ORGANS}
    wrong = {organ: v for organ, v in result.items() if not (math.isfinite(v) and v > 0)}
    if wrong:
        raise ValueError(f"{wrong}: the number of each organ must be above 0")
    return result


def named_numbers(text: str, names: tuple[str, ...], what: str) -> dict[str, float]:
    """Parse a list such as ``"flip,stain=0.75"``: each name once, a number from 0 to 1 after it, or none for 1.

    Args:
        text: The list; ``none`` or nothing is an empty one.
        names: What it may hold.
        what: What a name is called in an error.

    Returns:
        Name to number, in the order of `names`.

    Raises:
        ValueError: An unknown name, one that comes twice, or a number out of bounds.
    """
    found: dict[str, float] = {}
    for part in (part.strip() for part in text.split(",")):
        name, sep, number = part.partition("=")
        if part in ("", "none"):
            continue
        if name not in names:
            raise ValueError(f"there is no {what} {name!r}; choose among {', '.join(names)}")
        if name in found:
            raise ValueError(f"{what} {name} is listed twice; list it once")
        try:
            found[name] = float(number) if sep else 1.0
        except ValueError:
            found[name] = math.nan
        if not 0 <= found[name] <= 1:
            raise ValueError(f"{what} {part!r}: the number must be a share from 0 to 1, as in {name}=0.5")
    return {name: found[name] for name in names if name in found}


def scale_factors(text: str) -> tuple[float, ...]:
    """Parse a list of scales such as ``"0.8,1,1.25"``.

    Raises:
        ValueError: No number, or one that is not above 0 or comes twice.
    """
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError:
        factors = ()
    if not factors or len(set(factors)) < len(factors) or not all(math.isfinite(f) and f > 0 for f in factors):
        raise ValueError(f"scales are {text!r}; write numbers above 0, each once, such as 0.8,1,1.25")
    return factors


def check_bounds(config: Any) -> None:
    """Check each field against its ``choices``, ``least``, ``most`` and ``below``.

    Raises:
        ValueError: The first that fails.
    """
    for f in fields(config):
        value, meta = getattr(config, f.name), f.metadata
        if value is None:
            continue
        if "choices" in meta and value not in meta["choices"]:
            raise ValueError(f"{f.name} is {value!r}; choose one of {', '.join(map(str, meta['choices']))}")
        if "least" in meta and not value >= meta["least"]:
            raise ValueError(f"{f.name} is {value!r}; it must be at least {meta['least']}")
        if "most" in meta and not value <= meta["most"]:
            raise ValueError(f"{f.name} is {value!r}; it must be at most {meta['most']}")
        if "below" in meta and not value < meta["below"]:
            raise ValueError(f"{f.name} is {value!r}; it must be below {meta['below']}")
