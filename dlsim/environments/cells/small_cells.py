"""Mobile users whose link breaks, and who buy bandwidth of the stations around until they are handed over."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlsim import checks, keys
from dlsim.core import Array, Info
from dlsim.environments.cells.radio import Links, Radio, check_radio, links, scatter, side
from dlsim.environments.environment import Environment, box, check_size
from dlsim.environments.markets import fisher
from dlsim.environments.policies import Policy

SOURCE = "Mukherjee and Huberman, 2020 (abstract; the mechanism is ours)"
ROUND = 0.002  # seconds of a round: a bid there and an answer back, one millisecond each
OWN = 4  # numbers that an agent sees of itself


class CellsState(NamedTuple):
    """Users, stations and the trade of the last round."""

    stations: Array  # [B, 2] metres
    users: Array  # [U, 2] metres
    heading: Array  # [U, 2] metres a second
    seed: Array  # uint32 [] of shadowing
    links: Links
    blocked: Array  # int32 [U] rounds until handover; 0: the link is well
    tokens: Array  # [U] what a user has left to spend
    allocation: Array  # [U, C] MHz of the last round
    prices: Array  # [B]
    extra: Array  # [U] Mbit/s bought, once it may be used
    lost: Array  # [] Mbit that were wanted and not had
    wanted: Array  # [] Mbit
    got_by_age: Array  # [H] extra rate summed over users, by rounds since the link broke
    wanted_by_age: Array  # [H]
    step: Array  # int32 []


def small_cells(
    num_users: int = 300,
    num_stations: int = 60,
    *,
    cluster: int = 3,
    bandwidth: float | Array = 10.0,
    primary_bandwidth: float | Array = 2.0,
    radio: Radio | None = None,
    speed: float | Array = 1.5,
    blockages: float | Array = 0.5,
    drop_db: float | Array = 20.0,
    handover: float = 0.2,
    negotiation: int = 5,
    budget: float | Array = 1.0,
    refill: float | Array = 2.0,
    most_tokens: float | Array = 10.0,
    lease: float | Array = 0.05,
    max_steps: int = 500,
) -> Environment:
    """Users walk among small cells; now and then a link drops, and until the handover its user bids for bandwidth.

    A step is a round of bids, 2 ms.  A link breaks as a Poisson process, by `drop_db`; the user then wants the rate it
    lost (`D = primary_bandwidth (log2(1 + SINR) - log2(1 + SINR / drop))` Mbit/s) until the handover is over.  Actions are
    `[A, C]`, from 0 to 1: parts of what it may spend (`budget`, if it has the tokens) that are bid on each station of its
    cluster; parts that sum to more than 1 are scaled down, those of users whose link is well do not count.  Stations
    divide their spare bandwidth in proportion to the bids (`fisher.clear`); what a user buys it can use from
    `negotiation` rounds after its link broke.  Bids cost their sum per `lease` of time.

    Sees, of its cluster in order of distance: spectral efficiency, MHz it bought in the last round, price, `[C]` each; and
    its tokens (part of the most), whether its link is broken, the rate D it wants, the extra rate it has.
    Reward: minus the part of D that it lacks, 0 where nothing is wanted.

    Metrics: `lost_share` (of all data that was wanted so far), `num_blocked`, `mean_price`, `revenue` (of a round),
    `share_by_age` `[H]` (the part of the wanted data that was had, by rounds since the link broke).

    Args:
      num_users: agents A = U.
      num_stations: B, more than C.
      cluster: C, stations beside the serving one that an agent may buy from.
      bandwidth: spare MHz of each station.
      primary_bandwidth: MHz of a user's own link; 2 are 10 MHz over the five users that a station has.
      radio: constants of the channel (`Radio`).
      speed: of users, m/s, in a straight line that the border reflects.
      blockages: a user's broken links a second.
      drop_db: by how much a link breaks.
      handover: seconds until another station serves.
      negotiation: rounds after which bandwidth may be used.
      budget, refill, most_tokens: spent per lease at most; tokens a second; tokens that can be saved.
      lease: seconds.
      max_steps: rounds of an episode.

    Source: the scenario of Mukherjee and Huberman, Market-based short-term allocations in small cell wireless networks,
    2020, of which only the abstract could be read.  Departures from our own plan for it: bandwidth is divided anew in
    every round (a user that comes or goes ends the others' leases), and not at the ends of leases.
    """
    where = "small_cells"
    num_users = checks.integer(where, "num_users", num_users, 1)
    num_stations = checks.integer(where, "num_stations", num_stations, 2)
    cluster = checks.integer(where, "cluster", cluster, 1, num_stations - 1)
    max_steps = checks.integer(where, "max_steps", max_steps, 1)
    negotiation = checks.integer(where, "negotiation", negotiation, 0)
    check_size(where, num_users=num_users, cluster=cluster)
    checks.known(where, "handover", handover)
    checks.number(where, "handover", handover, ROUND, ROUND * checks.LARGEST_INTEGER)
    for name, value in (("primary_bandwidth", primary_bandwidth), ("lease", lease), ("most_tokens", most_tokens)):
        checks.number(where, name, value, 0.0, open_minimum=True)
    positive = {"bandwidth": bandwidth, "speed": speed, "blockages": blockages, "drop_db": drop_db}
    for name, value in {**positive, "budget": budget, "refill": refill}.items():
        checks.number(where, name, value, 0.0)
    radio = Radio() if radio is None else radio
    check_radio(where, radio)
    horizon = round(handover / ROUND)
    everyone = jnp.arange(num_users)

    def linked(seed: Array, users: Array, stations: Array) -> Links:
        key = jax.random.fold_in(jax.random.key(0), seed)
        return links(radio, users, stations, key, cluster)

    def demand(state: CellsState) -> Array:
        sinr = state.links.serving_sinr
        gone = jnp.log2(1.0 + sinr) - jnp.log2(1.0 + sinr / 10.0 ** (drop_db / 10.0))
        return jnp.where(state.blocked > 0, primary_bandwidth * gone, 0.0)

    def observe(state: CellsState) -> Array:
        own = (state.tokens / most_tokens, state.blocked > 0, demand(state), state.extra)
        prices = state.prices[state.links.near]
        return jnp.concatenate(
            [state.links.efficiency, state.allocation, prices, jnp.stack(own, axis=1)], axis=1
        ).astype(jnp.float32)

    def reset(key: Array) -> tuple[CellsState, Array]:
        length = side(radio, num_stations)
        stations = scatter(keys.stream(key, "stations"), num_stations, length)
        users = scatter(keys.stream(key, "users"), num_users, length)
        angle = 2 * jnp.pi * keys.node_uniform(keys.stream(key, "heading"), everyone, 1)
        seed = jax.random.bits(keys.stream(key, "shadowing"), (), jnp.uint32)
        zeros = jnp.zeros(num_users)
        state = CellsState(
            stations=stations,
            users=users,
            heading=speed * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1),
            seed=seed,
            links=linked(seed, users, stations),
            blocked=jnp.zeros(num_users, jnp.int32),
            tokens=jnp.full(num_users, most_tokens, jnp.float32),
            allocation=jnp.zeros((num_users, cluster)),
            prices=jnp.zeros(num_stations),
            extra=zeros,
            lost=jnp.zeros(()),
            wanted=jnp.zeros(()),
            got_by_age=jnp.zeros(horizon),
            wanted_by_age=jnp.zeros(horizon),
            step=jnp.int32(0),
        )
        return state, observe(state)

    def bid(state: CellsState, actions: Array) -> Array:
        parts = jnp.clip(actions, 0.0, 1.0)
        parts = parts / jnp.maximum(jnp.sum(parts, axis=1, keepdims=True), 1.0)
        may_spend = jnp.minimum(budget, state.tokens * lease / ROUND)
        return jnp.where((state.blocked > 0)[:, None], parts * may_spend[:, None], 0.0)

    def trade(state: CellsState, bids: Array) -> CellsState:
        supply = jnp.full(num_stations, bandwidth, jnp.float32)
        made = fisher.clear(state.links.near, state.links.efficiency, bids, supply)
        wanted, age = demand(state), horizon - state.blocked
        extra = jnp.where((state.blocked > 0) & (age >= negotiation), made.rates, 0.0)
        had = jnp.minimum(extra, wanted)
        place = jnp.where(state.blocked > 0, age, horizon)  # out of range where nothing is wanted: dropped
        return state._replace(
            tokens=jnp.clip(state.tokens - jnp.sum(bids, 1) * (ROUND / lease) + refill * ROUND, 0.0, most_tokens),
            allocation=made.allocation,
            prices=made.prices,
            extra=extra,
            lost=state.lost + ROUND * jnp.sum(wanted - had),
            wanted=state.wanted + ROUND * jnp.sum(wanted),
            got_by_age=state.got_by_age.at[place].add(had, mode="drop"),
            wanted_by_age=state.wanted_by_age.at[place].add(wanted, mode="drop"),
        )

    def move(key: Array, state: CellsState) -> CellsState:
        length = side(radio, num_stations)
        users = state.users + ROUND * state.heading
        outside = (users < 0) | (users > length)
        users = jnp.clip(jnp.where(users < 0, -users, jnp.where(users > length, 2 * length - users, users)), 0, length)
        left = jnp.maximum(state.blocked - 1, 0)
        breaks = keys.node_uniform(key, everyone, 1)[:, 0] < -jnp.expm1(-blockages * ROUND)
        return state._replace(
            users=users,
            heading=jnp.where(outside, -state.heading, state.heading),
            links=linked(state.seed, users, state.stations),
            blocked=jnp.where((left == 0) & breaks, horizon, left).astype(jnp.int32),
            step=state.step + 1,
        )

    def step(key: Array, state: CellsState, actions: Array) -> tuple[CellsState, Array, Array, Array, Info]:
        checks.shape(where, "actions", actions, (num_users, cluster))
        wanted = demand(state)
        traded = trade(state, bid(state, actions))
        lacks = jnp.maximum(wanted - traded.extra, 0.0)
        rewards = jnp.where(wanted > 0, -lacks / jnp.maximum(wanted, fisher.TINY), 0.0)
        after = move(key, traded)
        over = after.step >= max_steps
        info = {"is_over": over, "is_truncated": over}
        return after, observe(after), rewards, jnp.full(num_users, over), info

    def metrics(state: CellsState) -> dict[str, Array]:
        count = jnp.maximum(state.wanted_by_age, fisher.TINY)
        share = state.got_by_age / count
        return {
            "lost_share": state.lost / jnp.maximum(state.wanted, fisher.TINY),
            "num_blocked": jnp.sum(state.blocked > 0),
            "mean_price": jnp.mean(state.prices),
            "revenue": jnp.sum(state.prices) * bandwidth,
            "share_by_age": share,
        }

    return Environment(
        name=where,
        num_agents=num_users,
        observation_space=box((3 * cluster + OWN,)),
        action_space=box((cluster,), 0.0, 1.0),
        reset=reset,
        step=step,
        max_steps=max_steps,
        render=render,
        metrics=metrics,
        source=SOURCE,
    )


def render(state: CellsState, axes: Any) -> None:
    """Stations as triangles, users as dots (red: the link is broken), lines as wide as the bandwidth bought."""
    stations, users, near = (np.asarray(x) for x in (state.stations, state.users, state.links.near))
    allocation, blocked = np.asarray(state.allocation), np.asarray(state.blocked) > 0
    widest = max(float(allocation.max()), 1e-9)
    for user, place in zip(*np.nonzero(allocation > 0.01 * widest), strict=True):
        ends = np.stack([users[user], stations[near[user, place]]])
        axes.plot(*ends.T, color="tab:orange", linewidth=2.5 * allocation[user, place] / widest, zorder=1)
    axes.scatter(*stations.T, marker="^", c="black", s=25, zorder=3, label="station")
    axes.scatter(*users[~blocked].T, c="tab:blue", s=6, zorder=2, label="user")
    axes.scatter(*users[blocked].T, c="tab:red", s=14, zorder=4, label="user, link broken")
    axes.set_aspect("equal")
    axes.set_xlabel("m")
    axes.set_ylabel("m")


class BidderMemory(NamedTuple):
    shares: Array  # [A, C] of what is spent, the last bids
    spent: Array  # [A] part of the budget


def script_bidding(cluster: int = 3, *, is_capped: bool = True) -> Policy:
    """Proportional response: bid where the worth came from (`fisher.respond`), at first equally.

    Args:
      cluster: C of `small_cells`.
      is_capped: spend no more than the wanted rate needs (`fisher.spend`).
    """
    cluster = checks.integer("script_bidding", "cluster", cluster, 1)
    checks.flag("script_bidding", "is_capped", is_capped)

    def init(num_agents: int) -> BidderMemory:
        return BidderMemory(jnp.full((num_agents, cluster), 1.0 / cluster), jnp.ones(num_agents))

    def act(key: Array, memory: BidderMemory, seen: Array, allowed: Any, heard: Any) -> tuple[Any, Array, None]:
        del key, allowed, heard
        checks.shape("script_bidding", "observations", seen, (None, 3 * cluster + OWN))
        worth, bought = seen[:, :cluster], seen[:, cluster : 2 * cluster]
        is_broken, wanted = seen[:, -3] > 0, seen[:, -2]
        rates = jnp.sum(worth * bought, axis=1)
        begins = (rates <= 0) | ~is_broken
        last = fisher.Trade(jnp.zeros(()), bought, rates)
        shares = fisher.respond(worth, last, jnp.ones_like(rates), memory.shares)
        shares = jnp.where(begins[:, None], 1.0 / cluster, shares)
        ones = jnp.ones_like(rates)
        needed = fisher.spend(ones, memory.spent, rates, wanted) if is_capped else ones
        spent = jnp.where(begins, 1.0, needed)
        return BidderMemory(shares, spent), shares * spent[:, None], None

    return Policy(act, init, source="proportional response: Wu and Zhang, STOC 2007")


def script_waiting(cluster: int = 3) -> Policy:
    """Nobody bids: every user waits for its handover."""
    cluster = checks.integer("script_waiting", "cluster", cluster, 1)

    def act(key: Array, memory: Any, seen: Array, allowed: Any, heard: Any) -> tuple[Any, Array, None]:
        del key, allowed, heard
        return memory, jnp.zeros((seen.shape[0], cluster)), None

    return Policy(act)
