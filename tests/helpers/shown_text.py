"""Names that try to be more than text in a picture or a page, and how well a text can be told from its background."""

from __future__ import annotations

HOSTILE = ("<script>alert(1)</script>", "a\"b'c&d", "]]>", "\x00\x1b[31m", "</text>", "\u202eevil", "&#60;", "--><!--")


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, "contrast ratio"."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
