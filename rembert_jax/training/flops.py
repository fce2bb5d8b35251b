"""How many floating-point operations a function does, read from what it is traced to."""

from __future__ import annotations

import math
from typing import Any

from jax.extend import core


def executed_flops(closed: Any) -> int:
    """Operations of all matrix products in a jaxpr, multiplications and additions, of all devices together.

    What a scan repeats counts as often, what rematerialisation computes again counts again, and what a kernel computes counts
    once for each point of its grid.

    Args:
      closed: from `jax.make_jaxpr`.
    """
    return _count(closed.jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * inner * math.prod(equation.outvars[0].aval.shape)
    inside = [_count(jaxpr) for value in params.values() for jaxpr in _jaxprs(value)]
    if name == "scan":
        return params["length"] * sum(inside)
    if name == "cond":
        return max(inside, default=0)
    if name == "shard_map":
        # Its shapes are those of one part.
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"]) * sum(inside)
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid) * sum(inside)
    return sum(inside)


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [jaxpr for item in value for jaxpr in _jaxprs(item)]
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    return [value] if isinstance(value, core.Jaxpr) else []
