"""Text from elsewhere (tokens, class names, file names) in a form that can be shown, whatever is in it."""

from __future__ import annotations


def encodable(text: str) -> str:
    """The text with bytes that are no UTF-8 written as in `repr`, and other halves of characters as `�`."""
    if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text):
        return text
    return "".join(
        f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else "�" if "\ud800" <= c <= "\udfff" else c
        for c in text
    )


def visible(text: str) -> str:
    """Control characters as their pictures, so that no text can steer the terminal; lines stay lines."""
    return "".join(
        chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else "␡" if 127 <= ord(c) < 160 else c
        for c in encodable(text)
    )


def one_line(text: str) -> str:
    """The same, where a new line would be taken for one of ours: names in tables, captions, messages."""
    return visible(text).translate({ord("\n"): "␊", ord("\t"): "␉", 0x2028: "␊", 0x2029: "␊"})
