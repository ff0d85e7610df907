"""What does each aggregation rule cost, against the plain mean of what a node hears?

Commands: `python experiments/benchmarks/aggregators.py` (N=1000, degree 8, D=7,850: a softmax regression on 28 x 28 images;
a minute or two on 2 cores), `... aggregators.py --quick` (N=100) and `... aggregators.py krum cge` (these alone).

One exchange over a random 8-regular graph: everybody hears eight others and makes one value of nine.  The mean is a gossip
product that gathers nothing; "gathered" is the same mean made of messages that are held, as all other rules need them.  Of
each rule: processor time over that of both, in turns, and the memory that its program needs beside its arguments, in MiB:
that of all messages would be 8 N D numbers.
"""

from __future__ import annotations

import sys
import time

import jax
from timing import machine, median, paired_ratio, take_turns

import dlsim
from dlsim import aggregators
from dlsim.aggregators.linear import aggregate

F = 2
MEAN, MEDIAN = aggregators.mean(), aggregators.median()
RULES = {
    "mean": MEAN,
    "gathered": MEAN._replace(linear=None),
    "median": MEDIAN,
    "trimmed_mean": aggregators.trimmed_mean(F),
    "mean_around_median": aggregators.mean_around_median(F),
    "krum": aggregators.krum(F),
    "multi_krum": aggregators.krum(F, num_selected=5),
    "bulyan": aggregators.bulyan(1),
    "minimum_diameter": aggregators.minimum_diameter(F),
    "cge": aggregators.cge(F),
    "caf": aggregators.caf(F),
    "flag": aggregators.flag(centre="own", rescale="median"),
    "foolsgold": aggregators.foolsgold(),
    "sybil_wall": aggregators.sybil_wall(num_records=16),
    "geometric_median": aggregators.geometric_median(),
    "centered_clipping": aggregators.centered_clipping(1.0, num_iterations=3),
    "self_centered_clipping": aggregators.self_centered_clipping(1.0),
    "bucketing": aggregators.bucketing(MEAN, 2),
    "nearest_neighbor_mixing": aggregators.nearest_neighbor_mixing(MEAN, F),
    "norm_clipping": aggregators.norm_clipping(MEAN, 1.0),
    "adaptive_robust_clipping": aggregators.adaptive_robust_clipping(MEAN, F),
}


def compare(names: list[str], num_nodes: int, dimension: int, degree: int = 8, rounds: int = 5) -> dict[str, float]:
    """Prints the table; the median ratio of processor time to that of the mean, by rule."""
    network = dlsim.networks.random_regular(num_nodes, degree, seed=0)
    x = jax.random.normal(jax.random.key(0), (num_nodes, dimension))
    key, calls, needed = jax.random.key(1), {}, {}
    for name in dict.fromkeys(("mean", "gathered", *names)):
        rule = RULES[name]

        def once(x: jax.Array, rule: dlsim.Aggregator = rule) -> jax.Array:
            return aggregate(network, key, rule, rule.init(x), x)[1]

        compiled = jax.jit(once).lower(x).compile()
        needed[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        calls[name] = lambda compiled=compiled: compiled(x)
    seconds = take_turns(calls, rounds, clock=time.process_time)
    print(f"N={num_nodes}, degree {degree}, D={dimension}: all messages are {degree * x.nbytes / 2**20:.0f} MiB")
    ratios = {}
    for name, values in seconds.items():
        ratio, low, high = paired_ratio(values, seconds["mean"])
        held, _, _ = paired_ratio(values, seconds["gathered"])
        ratios[name] = ratio
        print(
            f"  {name:24s} {median(values) * 1e3:8.1f} ms  {ratio:6.2f} means ({low:.2f} to {high:.2f})  "
            f"{held:6.2f} gathered  {needed[name]:7.1f} MiB",
            flush=True,
        )
    return ratios


if __name__ == "__main__":
    asked = [name for name in sys.argv[1:] if not name.startswith("-")]
    print(machine())
    quick = "--quick" in sys.argv
    compare(asked or list(RULES), 100 if quick else 1000, 7850, rounds=3 if quick else 5)
