"""What one asks of the results of many runs: means and spreads, the best setting, cost to a target, the Pareto front.

Everything takes the Dataset that a sweep gives: one dimension for each swept key (an axis), `seed` and `step`, and
`diverged_step` `[axes..., seed]`, which is -1 for a run that went well and else its first bad step.  A Dataset of
single runs (`seed` or the axes missing, no `diverged_step`) will do as well.  A run has *failed* in a metric if it
diverged or if the number in question is not finite; failed runs enter no mean, and are counted.
"""

from dlsim.analysis.records import axes, reduce_steps
from dlsim.analysis.selection import best, best_runs
from dlsim.analysis.statistics import mean_and_spread, scores
from dlsim.analysis.tables import spread_text, to_csv, to_table
from dlsim.analysis.tradeoffs import PowerLaw, first_reaching, pareto, power_law

__all__ = [
    "PowerLaw",
    "axes",
    "best",
    "best_runs",
    "first_reaching",
    "mean_and_spread",
    "pareto",
    "power_law",
    "reduce_steps",
    "scores",
    "spread_text",
    "to_csv",
    "to_table",
]
