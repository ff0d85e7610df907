"""A Fisher market by proportional response, in plain loops over buyers and sellers."""

from __future__ import annotations

import math


def play(near, worth, budgets, supply, rounds, demand=None):
    """Prices, allocations and rates of the last round, and the utility after each."""
    buyers = range(len(near))
    places = range(len(near[0]))
    bids = [[budgets[i] / len(places) for _ in places] for i in buyers]
    spent = list(budgets)
    demand = [math.inf] * len(near) if demand is None else demand
    utilities = []
    for _ in range(rounds):
        total = [0.0] * len(supply)
        for i in buyers:
            for c in places:
                total[near[i][c]] += bids[i][c]
        x = [
            [supply[near[i][c]] * bids[i][c] / total[near[i][c]] if total[near[i][c]] > 0 else 0.0 for c in places]
            for i in buyers
        ]
        rates = [sum(worth[i][c] * x[i][c] for c in places) for i in buyers]
        prices = [total[j] / supply[j] if supply[j] > 0 else 0.0 for j in range(len(supply))]
        utilities.append(sum(budgets[i] * math.log(rates[i]) for i in buyers if rates[i] > 0))
        for i in buyers:
            if rates[i] > 0:
                wanted = budgets[i] if math.isinf(demand[i]) else spent[i] * demand[i] / rates[i]
                spent[i] = min(max(wanted, 1e-6 * budgets[i]), budgets[i])
                bids[i] = [spent[i] * worth[i][c] * x[i][c] / rates[i] for c in places]
    return prices, x, rates, utilities
