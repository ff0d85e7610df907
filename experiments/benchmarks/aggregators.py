"""What does each aggregation rule cost, against the plain mean of what a node hears?

Commands: `python experiments/benchmarks/aggregators.py` (N=1000, degree 8, D=7,850: a softmax regression on 28 x 28 images;
a minute or two on 2 cores), `... aggregators.py --quick` (N=100) and `... aggregators.py krum cge` (these alone).

One exchange over a random 8-regular graph: everybody hears eight others and makes one value of nine.  The mean is a gossip
product that gathers nothing; "gathered" is the same mean made of messages that are held, as all other rules need them.  Of
each rule: processor time over that of both, in turns, and the memory that its program needs beside its arguments, in MiB:
that of all messages would be 8 N D numbers.

Measured 2026-12-01, 2 cores (x86_64) beside other programs, jax 0.10.2, processor time, medians of 5 turns; the mean takes 14
ms, and all messages would be 240 MiB:

    rule                       ms  means gathered  MiB     rule                       ms  means gathered  MiB
    gathered                  101    7.0      1.0  0.2     centered_clipping (3)     308   21.9      2.8  1.1
    median                     75    5.4      0.8  0.3     minimum_diameter          313   22.0      3.1  1.1
    trimmed_mean               79    5.6      0.8  0.6     norm_clipping             314   22.3      3.1  0.5
    bucketing                 125    9.3      1.2  1.4     krum                      317   21.9      3.1  1.1
    cge                       153   10.9      1.5  1.1     mean_around_median        366   25.7      3.7  0.5
    foolsgold                 198   14.1      1.7  3.9     flag                      480   34.2      4.5  0.6
    self_centered_clipping    213   15.1      2.1  1.0     geometric_median (8)      537   38.2      5.1  0.5
    adaptive_robust_clipping  306   21.1      3.0  0.5     sybil_wall (16 records)   816   57.1      7.5  719
    multi_krum                310   21.8      3.0  1.1     bulyan                    827   59.8      7.5  0.5
                                                           nearest_neighbor_mixing   883   62.6      8.5  0.6
                                                           caf                       934   68.0      8.4  1.1

Within ten means are the rules that read each message once.  To gather costs seven of them: the mean reads the same rows and
holds none.  Distances of all pairs (krum, multi_krum, minimum_diameter, caf) cost 15 more, 81 sums of 7,850 squared
differences a receiver: one product of matrices would take a third of the time (115 ms with the messages), and would lose
the small distances between two lies far away.  Half of the pairs, sums of eight lanes, sums by a product with ones, and
messages gathered one neighbour after the other were each tried, and no one was quicker by more than the spread.  What
iterates (geometric_median, flag, centered_clipping) reads all messages again and again, caf asks LAPACK for eigenvectors
nine times, and sybil_wall compares 16 records a node.
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
