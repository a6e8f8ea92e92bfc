"""Damage: bytes of any file, and values of JSON files, changed in the ways that readers trip over."""

from __future__ import annotations

import json
import random
from typing import Any

_BYTES = (
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\0\0\xc0\x7f",
    b"\0\0\x80\x7f",
    b"9999",
    b"-1",
    b"\xff\xff",
    b"\0" * 8,
    b"%s%n",
)
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 3, 10**30, -(10**30), 1e308, "", "x", "x" * 100_000, "\ud800", "\x1b[31m", "../../x",
    "/etc/passwd", [], {}, [[]], [None], {"": None}, "1" * 5000, "NaN", "2026-01-01", "Größe\n2",
)  # fmt: skip
_TOKENS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1" * 5000,
    "1e999",
    "[" * 3000,
    '{"a":' * 3000,
    '"\\ud800"',
    "",
    "\0",
    "\ufeff",
    "tru",
)


def damage(content: bytes, chance: random.Random, header: int = 400) -> bytes:
    """Return the content cut off, with bytes changed (mostly in its header), repeated, taken out or exchanged."""
    damaged = bytearray(content)
    kind = chance.randrange(7)
    if kind == 0 or not damaged:
        return bytes(damaged[: chance.randrange(len(damaged) + 1)])
    reach = min(len(damaged), header if chance.random() < 0.8 else len(damaged))
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        position = chance.randrange(reach)
        if kind == 1:
            damaged[position % len(damaged)] ^= 1 << chance.randrange(8)
        elif kind == 2:
            damaged[position % len(damaged)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x2D, 0x39, 0x25))
        elif kind == 3:
            value = chance.choice(_BYTES)
            damaged[position : position + len(value)] = value
        elif kind == 4:
            damaged[position:position] = damaged[position : position + chance.randrange(1, 40)]
        elif kind == 5 and len(damaged) > 60:
            del damaged[position : position + chance.randrange(1, 12)]
        else:
            other = chance.randrange(reach)
            damaged[position : position + 4], damaged[other : other + 4] = (
                damaged[other : other + 4],
                damaged[position : position + 4],
            )
    return bytes(damaged)


def damage_json(content: bytes, chance: random.Random) -> bytes:
    """Return a JSON text with an entry replaced, removed or doubled, a token that is no JSON, or damaged bytes."""
    if chance.random() < 0.25:
        return damage(content, chance, len(content))
    lines = content.split(b"\n") if content.count(b"\n{") else [content]
    number = chance.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except ValueError:
        return damage(content, chance, len(content))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        value = _changed(value, chance)
    text = json.dumps(value)
    if chance.random() < 0.2:
        position = text.rfind(":", 0, chance.randrange(len(text) + 1))
        text = f"{text[: position + 1]}{chance.choice(_TOKENS)}{text[position + 1 :] if chance.random() < 0.5 else ''}"
    lines[number] = text.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _changed(value: Any, chance: random.Random) -> Any:
    """Return a value with one entry somewhere below it changed."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return chance.choice(_VALUES)
    if isinstance(value, list):
        place = chance.randrange(len(value))
        if chance.random() < 0.15:
            return [*value[:place], *value[place + 1 :]]
        if chance.random() < 0.1:
            return value * 2
        return [*value[:place], _changed(value[place], chance), *value[place + 1 :]]
    key = chance.choice(list(value))
    if chance.random() < 0.15:
        return {name: entry for name, entry in value.items() if name != key}
    if chance.random() < 0.05:
        return value | {str(chance.choice(_VALUES)): value[key]}
    return value | {key: _changed(value[key], chance)}
