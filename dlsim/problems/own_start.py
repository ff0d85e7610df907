"""Nodes that nobody hands a first model: everyone draws its own."""

from __future__ import annotations

import jax

from dlsim import checks, keys
from dlsim.core import Array, Problem, PyTree


def own_start(problem: Problem) -> Problem:
    """The same problem, in which every node starts from a model of its own: x_i^0 = init(key of node i).

    As where no seed can be agreed on.  Else all nodes start from one draw of the problem's `init`.  Methods with a server,
    and those whose nodes must know each other's first model, start from one model all the same (`learn` says which).

    Draws belong to node ids: node i starts alike whoever else there is.
    """
    checks.instance("own_start", "problem", problem, Problem, "See dlsim.problems.")

    def start(key: Array, node_ids: Array) -> PyTree:
        return jax.vmap(problem.init)(keys.at_nodes(keys.stream(key, "own start"), node_ids))

    return problem._replace(start=start)
