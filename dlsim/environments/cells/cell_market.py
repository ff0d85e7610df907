"""The market of small cells as a Process: one round of bids a step, against what it could have reached."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process
from dlsim.environments.cells.radio import Radio, check_radio, links, scatter, side
from dlsim.environments.environment import check_size
from dlsim.environments.markets import fisher

SOURCE = "Mukherjee and Huberman, 2020 (the mechanism is proportional response: Wu and Zhang, STOC 2007)"
BYTES = 8  # of a message: an identity and a float
METHODS = ("market", "nearest", "best", "cluster", "random", "posted", "optimum")  # in the order measured
QUANTILES = 101


class CellMarketState(NamedTuple):
    """A market between U users and B stations."""

    near: Array  # int32 [U, C]
    worth: Array  # [U, C] spectral efficiency, bit/s/Hz, when the bandwidth is used
    believed: Array  # [U, C] the same as users believe while they bid
    bids: Array  # [U, C]
    rates: Array  # [U] Mbit/s of the last round
    prices: Array  # [B]
    others: Array  # [6, U] rates of the other methods
    best: Array  # [] utility at the equilibrium
    round: Array  # int32 []


def cell_market(
    num_users: int = 300,
    num_stations: int = 60,
    *,
    cluster: int = 3,
    bandwidth: float | Array = 10.0,
    radio: Radio | None = None,
    uncertainty: float | Array = 0.0,
    optimum_rounds: int = 400,
) -> Process:
    """Users that buy bandwidth of the stations of their clusters, all at once: a round of proportional response a step.

    Measures `utility_gap` (per unit of budget: how far sum m log r is below the equilibrium's), `geometric_mean_rate`
    (Mbit/s, over users), `bytes_sent` (two messages of 8 bytes a pair and round), and for the methods `METHODS` their
    `geometric_means` `[7]` and `rate_quantiles` `[7, 101]` over users: this market so far; equal shares of the nearest
    station of the cluster, of its best one, of all of them, of one drawn at random; first come, first served at the mean
    price of the equilibrium, in random order; and the equilibrium.

    Args:
      num_users: U.  Each has a budget of 1.
      num_stations: B, more than C.
      cluster: C.
      bandwidth: spare MHz of a station.
      radio: constants of the channel.
      uncertainty: users bid by s exp(uncertainty z), z normal, and get the worth s.
      optimum_rounds: of proportional response, from which the equilibrium is taken.

    Source: the setting of Mukherjee and Huberman, 2020; only its abstract could be read, so the mechanism is ours.
    """
    where = "cell_market"
    num_users = checks.integer(where, "num_users", num_users, 1)
    num_stations = checks.integer(where, "num_stations", num_stations, 2)
    cluster = checks.integer(where, "cluster", cluster, 1, num_stations - 1)
    check_size(where, num_users=num_users, cluster=cluster)
    checks.number(where, "bandwidth", bandwidth, 0.0)
    checks.number(where, "uncertainty", uncertainty, 0.0)
    optimum_rounds = checks.integer(where, "optimum_rounds", optimum_rounds, 1)
    radio = Radio() if radio is None else radio
    check_radio(where, radio)
    budgets = jnp.ones(num_users)

    def init(key: Array) -> CellMarketState:
        length = side(radio, num_stations)
        stations = scatter(keys.stream(key, "stations"), num_stations, length)
        users = scatter(keys.stream(key, "users"), num_users, length)
        made = links(radio, users, stations, keys.stream(key, "shadowing"), cluster)
        near, worth = made.near, made.efficiency
        noise = keys.node_normal(keys.stream(key, "belief"), jnp.arange(num_users), cluster)
        supply = jnp.full(num_stations, bandwidth, jnp.float32)
        best = fisher.fisher_market(near, worth, budgets, supply, optimum_rounds).trade
        price = jnp.sum(budgets) / jnp.maximum(jnp.sum(supply), fisher.TINY)
        order = jax.random.permutation(keys.stream(key, "order"), num_users)
        others = (
            fisher.equal_share(near, worth, supply, "first"),
            fisher.equal_share(near, worth, supply, "best"),
            fisher.equal_share(near, worth, supply, "all"),
            fisher.random_matching(keys.stream(key, "matching"), near, worth, supply),
            fisher.posted_price(near, worth, budgets, supply, price, order),
            best,
        )
        return CellMarketState(
            near=near,
            worth=worth,
            believed=worth * jnp.exp(uncertainty * noise),
            bids=fisher.start_bids(worth, budgets),
            rates=jnp.zeros(num_users),
            prices=jnp.zeros(num_stations),
            others=jnp.stack([trade.rates for trade in others]),
            best=fisher.log_utility(budgets, best.rates),
            round=jnp.int32(0),
        )

    def step(key: Array, state: CellMarketState) -> tuple[CellMarketState, Info]:
        del key
        supply = jnp.full(num_stations, bandwidth, jnp.float32)
        thought = fisher.clear(state.near, state.believed, state.bids, supply)
        bids = fisher.respond(state.believed, thought, budgets, state.bids)
        rates = jnp.sum(state.worth * thought.allocation, axis=1)
        return state._replace(bids=bids, rates=rates, prices=thought.prices, round=state.round + 1), {}

    def measure(state: CellMarketState, info: Info) -> Info:
        del info
        rates = jnp.concatenate([state.rates[None], state.others])
        means = jnp.exp(jnp.mean(jnp.log(jnp.maximum(rates, fisher.TINY)), axis=1))
        gap = (state.best - fisher.log_utility(budgets, state.rates)) / jnp.sum(budgets)
        has_begun = state.round > 0
        return {
            "utility_gap": jnp.where(has_begun, gap, jnp.nan),
            "geometric_mean_rate": jnp.where(has_begun, means[0], 0.0),
            "geometric_means": means,
            "rate_quantiles": jnp.quantile(rates, jnp.linspace(0, 1, QUANTILES), axis=1).T,
            "bytes_sent": (2.0 * BYTES * cluster * num_users) * state.round,
        }

    return Process(init, step, measure, (SOURCE,))
