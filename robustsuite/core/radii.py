"""Whether a radius can be what its author meant: none that holds every input, none in a unit too small."""

from __future__ import annotations

import math

from robustsuite.core import checks
from robustsuite.core.ball import Ball


def refuse_vacuous(
    ball: Ball, bounds: tuple[float, float], shape: tuple[int, ...] | None = None, *, name: str = "radius"
) -> None:
    """Refuse a declared ball that holds every input there is, such as 8 typed for 8/255.

    No model withstands it, so 0 % under it says nothing of the model. Diagnostics and curves, which ask for such balls
    on purpose, do not come here.

    Args:
        ball: As the user declared it; bounds of its own count before those of the data.
        bounds: Least and greatest input value.
        shape: Of one input; None where it is not known yet, and then only linf is checked.
        name: What the user calls the radius.

    Raises:
        RequestError: The radius reaches from one corner of the inputs' box to the opposite one.

    Example:
        >>> refuse_vacuous(Ball("linf", "8/255"), (0.0, 1.0))
    """
    low, high = ball.bounds or bounds
    if shape is None and ball.norm != "linf":
        return
    span = ball.everywhere(shape or (), (low, high)).radius
    if ball.radius < span:
        return
    pixels = (low, high) == (0.0, 1.0) and 1 <= ball.radius <= 255
    remedy = f"write {ball.radius:g}/255 if pixel values were meant" if pixels else "give it in raw input units"
    expected = f"an {ball.norm} radius below {span:.6g}, which joins opposite corners of inputs in [{low:g}, {high:g}]"
    raise checks.fail(expected, name, ball.radius, f"{remedy}; a ball that holds every input says nothing of a model")


def below_a_grey_level(ball: Ball, shape: tuple[int, ...]) -> bool:
    """Whether a ball around images, of bounds of its own, is so small that a wrong unit is likely.

    One grey level is 1/255 of the range. Half of it in linf, a tenth in every coordinate in l2 and one in l1 are
    smaller than what is published; 8/255 or 0.5 on inputs in [0, 255] are smaller still. Radius 0 is asked for on
    purpose.

    Example:
        >>> below_a_grey_level(Ball("linf", "8/255", (0, 255)), (3, 32, 32))
        True
    """
    if ball.radius == 0 or ball.bounds is None or len(shape) < 2:
        return False
    level = (ball.bounds[1] - ball.bounds[0]) / 255
    least = {"linf": 0.5, "l2": 0.1 * math.sqrt(math.prod(shape)), "l1": 1.0}[ball.norm]
    return ball.radius < least * level
