"""Background props no caption mentions, each in its own natural colours."""

from __future__ import annotations

from .drawing import INK, RGB, Drawing, arc, blob, ellipse, line, poly, rect

STEEL: RGB = (150, 156, 164)
WHITE: RGB = (246, 244, 238)
SIGN_RED: RGB = (206, 48, 44)
BRASS: RGB = (168, 128, 62)
GLOW: RGB = (252, 222, 140)
CREAM: RGB = (240, 226, 196)
CLAY: RGB = (190, 104, 66)
CLAY_DARK: RGB = (150, 78, 48)
GREEN: RGB = (66, 144, 70)
GREEN_DARK: RGB = (42, 106, 54)
WOOD: RGB = (176, 126, 78)
WOOD_DARK: RGB = (136, 92, 54)

DRAWINGS: dict[str, Drawing] = {
    "sign": (
        # A warning triangle on a pole.
        rect(0.45, 0.56, 0.55, 0.96, ink=STEEL),
        rect(0.34, 0.91, 0.66, 0.96, ink=(110, 114, 120)),
        poly((0.50, 0.04), (0.90, 0.68), (0.10, 0.68), ink=SIGN_RED),
        poly((0.50, 0.20), (0.76, 0.60), (0.24, 0.60), ink=WHITE),
        line((0.50, 0.32), (0.50, 0.42), width=0.07, ink=INK),
        ellipse(0.50, 0.54, 0.04, 0.04, ink=INK),
    ),
    "lamp": (
        # A standing lamp: cone shade, thin pole, round foot.
        rect(0.47, 0.40, 0.53, 0.92, ink=BRASS),
        ellipse(0.50, 0.92, 0.22, 0.045, ink=BRASS),
        line((0.62, 0.36), (0.62, 0.54), width=0.025, ink=INK),
        poly((0.36, 0.04), (0.64, 0.04), (0.80, 0.40), (0.20, 0.40), ink=GLOW),
        poly((0.56, 0.04), (0.64, 0.04), (0.80, 0.40), (0.64, 0.40), ink=(228, 188, 100)),
        line((0.22, 0.39), (0.78, 0.39), width=0.04, ink=BRASS),
        line((0.37, 0.05), (0.63, 0.05), width=0.03, ink=BRASS),
    ),
    "plant": (
        # Five pointed leaves out of a clay pot.
        blob((0.48, 0.66), (0.24, 0.58), (0.06, 0.42), (0.30, 0.42), (0.46, 0.54), ink=GREEN_DARK),
        blob((0.52, 0.66), (0.76, 0.58), (0.94, 0.42), (0.70, 0.42), (0.54, 0.54), ink=GREEN_DARK),
        blob((0.48, 0.64), (0.28, 0.38), (0.20, 0.14), (0.40, 0.28), (0.52, 0.50), ink=GREEN),
        blob((0.52, 0.64), (0.72, 0.38), (0.80, 0.14), (0.60, 0.28), (0.48, 0.50), ink=GREEN),
        blob((0.50, 0.66), (0.42, 0.32), (0.50, 0.04), (0.58, 0.32), ink=(96, 176, 84)),
        line((0.50, 0.62), (0.50, 0.18), width=0.02, ink=GREEN_DARK),
        poly((0.30, 0.68), (0.70, 0.68), (0.63, 0.96), (0.37, 0.96), ink=CLAY),
        poly((0.57, 0.68), (0.70, 0.68), (0.63, 0.96), (0.54, 0.96), ink=CLAY_DARK),
        rect(0.26, 0.61, 0.74, 0.71, ink=CLAY),
        line((0.28, 0.715), (0.72, 0.715), width=0.02, ink=CLAY_DARK),
    ),
    "ball": (
        # A beach ball: six wedges around a button.
        ellipse(0.50, 0.50, 0.46, 0.46, ink=WHITE),
        blob((0.40, 0.38), (0.36, 0.20), (0.42, 0.05), (0.62, 0.06), (0.80, 0.16), (0.60, 0.22), ink=(222, 66, 58)),
        blob((0.40, 0.38), (0.64, 0.36), (0.94, 0.41), (0.94, 0.60), (0.86, 0.76), (0.66, 0.52), ink=(62, 122, 206)),
        blob((0.40, 0.38), (0.50, 0.64), (0.58, 0.95), (0.40, 0.95), (0.22, 0.86), (0.32, 0.62), ink=(240, 190, 60)),
        blob((0.40, 0.38), (0.22, 0.46), (0.06, 0.62), (0.05, 0.42), (0.12, 0.24), (0.26, 0.28), ink=(84, 168, 92)),
        ellipse(0.40, 0.38, 0.075, 0.075, ink=WHITE),
    ),
    "mushroom": (
        # A spotted toadstool.
        blob(
            (0.38, 0.52), (0.40, 0.70), (0.33, 0.90), (0.50, 0.96), (0.67, 0.90), (0.60, 0.70), (0.62, 0.52), ink=CREAM
        ),
        blob((0.54, 0.54), (0.55, 0.74), (0.54, 0.94), (0.66, 0.90), (0.60, 0.70), (0.62, 0.54), ink=(212, 194, 158)),
        blob(
            (0.04, 0.50),
            (0.12, 0.26),
            (0.30, 0.10),
            (0.50, 0.05),
            (0.70, 0.10),
            (0.88, 0.26),
            (0.96, 0.50),
            (0.80, 0.58),
            (0.50, 0.61),
            (0.20, 0.58),
            ink=(204, 58, 48),
        ),
        arc((0.12, 0.53), (0.30, 0.575), (0.50, 0.585), (0.70, 0.575), (0.88, 0.53), width=0.04, ink=(156, 36, 34)),
        ellipse(0.48, 0.22, 0.10, 0.075, ink=WHITE),
        ellipse(0.24, 0.38, 0.075, 0.075, ink=WHITE),
        ellipse(0.58, 0.43, 0.09, 0.07, ink=WHITE),
        ellipse(0.80, 0.36, 0.06, 0.075, ink=WHITE),
    ),
    "fence": (
        # Four pointed pickets on two rails.
        rect(0.04, 0.40, 0.96, 0.50, ink=WOOD_DARK),
        rect(0.04, 0.70, 0.96, 0.80, ink=WOOD_DARK),
        *(
            poly((x, 0.92), (x, 0.24), (x + 0.08, 0.10), (x + 0.16, 0.24), (x + 0.16, 0.92), ink=WOOD)
            for x in (0.07, 0.30, 0.54, 0.77)
        ),
        *(ellipse(x, y, 0.022, 0.022, ink=INK) for x in (0.15, 0.38, 0.62, 0.85) for y in (0.45, 0.75)),
    ),
}
