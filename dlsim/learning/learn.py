"""`learn`: problem x algorithm x network x scenario, as one Process."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.aggregators.bounds import check_bound
from dlsim.clocks.windows import Timing
from dlsim.core import (
    PROPERTIES,
    REQUIREMENTS,
    Algorithm,
    Array,
    ArrivalAlgorithm,
    Drawn,
    EventAlgorithm,
    Info,
    Phase,
    Problem,
    Process,
    PyTree,
    Relink,
    Scenario,
)
from dlsim.learning.arrivals import learn_arrivals
from dlsim.learning.events import learn_events
from dlsim.learning.measures import STALENESS_DIMS, measured
from dlsim.learning.starting import starting_models
from dlsim.networks.fields import check_single
from dlsim.networks.flight.delays import check_unit
from dlsim.networks.flight.server_messages import asked
from dlsim.networks.messages import active_edges, open_channels
from dlsim.networks.network import Network, NetworkState
from dlsim.networks.pace.links import Ledger
from dlsim.networks.pace.seconds import by_node, computed, end_round
from dlsim.running import counters, status

_FIXES = {
    "connected": "Add edges or use a connected topology.",
    "undirected": "Use an undirected topology, or stochastic_gradient_push for directed ones.",
    "symmetric": 'Use weights="metropolis_hastings".',
    "doubly_stochastic": 'Use weights="metropolis_hastings".',
    "row_stochastic": 'Use weights="row_stochastic".',
    "column_stochastic": 'Use weights="column_stochastic".',
}
_ORDER = "Call learn(problem, algorithm, network, scenario)."


class LearnState(NamedTuple):
    algorithm: PyTree
    network: NetworkState
    scenario: PyTree
    gradient_evaluations: counters.Counter  # []


def learn(
    problem: Problem,
    algorithm: Algorithm | EventAlgorithm | ArrivalAlgorithm,
    network: Network,
    scenario: Scenario | None = None,
    *,
    timing: Timing | None = None,
    initial_params: PyTree | None = None,
) -> Process:
    """Nodes that learn: the Process of `algorithm` on `problem` over `network` under `scenario`.

    A step lets the scenario make the round's network of the one given here, lets the algorithm do its round on it, and
    keeps what the round cost: traffic, simulated seconds (communication by the verbs, then the slowest node's gradient
    evaluations), channel states.  All nodes start from the same parameters, which the problem draws (those of
    `dlsim.problems.consensus` from the vectors given to it), or from
    `initial_params`: one model for all, `[...]`, or one a node, every leaf `[N, ...]`, where the method allows for it (not
    those with a server, nor those whose nodes must know each other's first model); they become constants of the process.
    With `initial_params="own"`, where the method allows for that, every node draws a first model of its own from the problem.

    The process measures, over the models of the nodes: the mean of every metric of `problem.evaluate`, the same metric
    of the mean model (`<name>_of_mean`), `consensus_distance`, `train_loss` (mean over nodes of the last local batch
    losses), and the four axes `bits_sent`, `messages_sent`, `gradient_evaluations`, `simulated_seconds`.

    Where messages take rounds (`Network.with_delays`) it measures `staleness` too: how often a message was used so many
    exchanges after it was sent, and `mean_staleness`.  Where messages of a method by clocks take seconds it measures
    `message_staleness` and `mean_message_staleness`: how often a message was heard after its sender had taken so many
    gradients, and heard so many messages, since it was sent.

    Methods whose nodes act when their clocks say so (`EventAlgorithm`) take `timing` (see `dlsim.clocks.timing`): a step
    is then a window of simulated time, and `staleness` is measured as well, how often each was met so far.

    Raises ValueError if the sizes differ, if the network lacks a property the algorithm requires, or if a node hears too
    little for the algorithm's aggregator (where no scenario replaces the topology).
    """
    checks.instance("learn", "problem", problem, Problem, _ORDER)
    if not isinstance(algorithm, EventAlgorithm | ArrivalAlgorithm):
        checks.instance("learn", "algorithm", algorithm, Algorithm, _ORDER)
    checks.instance("learn", "network", network, Network, "Use a topology, or from_networkx, from_jraph, from_matrix.")
    if problem.num_nodes != network.num_nodes:
        fix = "Give both the same num_nodes."
        got = f"{network.num_nodes} nodes"
        checks.fail("learn", "network", f"of the problem's {problem.num_nodes} nodes", got, fix)
    if scenario is not None and not isinstance(scenario, Scenario):
        checks.fail(
            "learn", "scenario", "a Scenario", type(scenario).__name__, "A Channel goes to network.with_channel."
        )
    _check_names("algorithm.requires", algorithm.requires, REQUIREMENTS)
    properties = network.properties
    if scenario is not None and scenario.properties is not None:
        _check_names("scenario.properties", scenario.properties, PROPERTIES)
        properties = scenario.properties
    if "fixed_topology" in algorithm.requires and scenario is not None and scenario.properties is not None:
        fix = "Its state belongs to the edges it started with."
        checks.fail("learn", "scenario", "one that keeps the topology for this algorithm", "one that replaces it", fix)
    for name in PROPERTIES:
        if name in algorithm.requires and name not in properties:
            held = ", ".join(sorted(properties)) or "none of these properties"
            checks.fail("learn", "network", f"{name} for this algorithm", held, _FIXES[name])
    if isinstance(algorithm, EventAlgorithm | ArrivalAlgorithm):
        _check_books(network)
    if not isinstance(algorithm, Algorithm) or "server" not in algorithm.requires:
        check_single("learn", network)
    if isinstance(algorithm, EventAlgorithm | ArrivalAlgorithm) and network.channel.needs:
        rule = "one that needs no other message than the one it changes, for a method that passes one at a time"
        got, fix = "an attack that knows what others say", 'Use e.g. byzantine(ids, "sign_flip").'
        checks.fail("learn", "network.channel", rule, got, fix)
    if isinstance(algorithm, Algorithm) and (scenario is None or scenario.properties is None):
        check_bound("learn", algorithm.aggregator, network, "server" in algorithm.requires)
    start = starting_models(problem, algorithm, initial_params, network.node_ids)
    if network.delays is not None and isinstance(algorithm, ArrivalAlgorithm):
        fix = "Its messages take what the pace of clients says."
        checks.fail("learn", "network", "one without delays for a method with a schedule", "delays", fix)
    if network.delays is not None:
        check_unit("learn", network.delays, "seconds" if isinstance(algorithm, EventAlgorithm) else "rounds")
    if network.delays is not None and ("prompt" in algorithm.requires or network.channel.is_sum):
        fix = "What is said in a round is void in the next one: the basis, direction or mask it belongs to is another."
        checks.fail("learn", "network", "one without delays for this algorithm and channel", "delays", fix)
    if isinstance(algorithm, ArrivalAlgorithm):
        if scenario is not None:
            fix = "Clients that are slow, or away between jobs, are the pace's affair."
            checks.fail("learn", "scenario", "None for a method with a schedule", type(scenario).__name__, fix)
        return learn_arrivals(problem, algorithm, network, timing, start)
    if scenario is not None and not algorithm.lets_relay:
        _check_relays(network, scenario)
    if isinstance(algorithm, EventAlgorithm):
        if scenario is not None and scenario.properties is not None:
            fix = "Its clocks belong to the edges of the network."
            checks.fail("learn", "scenario", "one that keeps the topology for this algorithm", "another", fix)
        if scenario is not None and not _keeps_links(scenario, network):
            fix = "Its clocks say how fast nodes are: pass timing(gradient=dlsim.clocks.poisson(rates))."
            checks.fail("learn", "scenario", "one that leaves the links alone for this algorithm", "another", fix)
        return learn_events(problem, algorithm, network, scenario, timing, start)
    if timing is not None:
        checks.fail("learn", "timing", "None for an algorithm of rounds", type(timing).__name__)
    if network.delays is not None and scenario is not None and scenario.properties is not None:
        network = network.replace(delays=network.delays.on_changing_links("learn"))

    def round_(key: Array, algorithm_state: PyTree, scenario_state: PyTree, current: Network) -> tuple[Any, ...]:
        if scenario is not None:
            scenario_state, current = scenario.step(keys.stream(key, "scenario"), scenario_state, current)
        algorithm_state, current, info = algorithm.step(keys.stream(key, "algorithm"), algorithm_state, current)
        return algorithm_state, scenario_state, current, info

    def init(key: Array) -> LearnState:
        algorithm_state = algorithm.init(keys.stream(key, "algorithm"), start(key), network)
        scenario_state = () if scenario is None else scenario.init(keys.stream(key, "scenario"), network)
        opened = open_channels(network, lambda probed: round_(key, algorithm_state, scenario_state, probed)[3])
        return LearnState(algorithm_state, opened.state, scenario_state, counters.counter())

    def step(key: Array, state: LearnState) -> tuple[LearnState, Info]:
        current = network.with_state(state.network)
        algorithm_state, scenario_state, current, info = round_(key, state.algorithm, state.scenario, current)
        nobody = jnp.zeros(network.num_nodes, jnp.uint32)
        count = info["num_gradients"].astype(jnp.uint32) if "num_gradients" in info else nobody
        info = {**info, "status": _status(algorithm, algorithm_state, current, info)}
        if current.is_present is not None:
            info["num_present"] = jnp.sum(current.is_present)
        rows = None if count.shape[0] == network.num_nodes else asked(current)[0]
        current = end_round(computed(current, key, count, rows))
        spent = counters.add(state.gradient_evaluations, counters.total(counters.from_words(count)))
        return LearnState(algorithm_state, current.state, scenario_state, spent), info

    def params(state: LearnState) -> PyTree:
        return algorithm.params(state.algorithm)

    def measure(state: LearnState, info: Info) -> Info:
        return measured(
            problem, params(state), network.node_ids, state.network, state.gradient_evaluations, info
        ) | by_node(state.network, network.links)

    def phase_of(phase: Phase) -> Phase:
        """The algorithm's, of the whole state."""
        return phase._replace(
            read=lambda state: phase.read(state.algorithm),
            write=lambda key, state, view: state._replace(algorithm=phase.write(key, state.algorithm, view)),
        )

    sources = (problem.source, algorithm.source, network.channel.source, "" if scenario is None else scenario.source)
    return Process(
        init=init,
        step=step,
        measure=measure,
        sources=tuple(s for s in sources if s),
        num_nodes=problem.num_nodes,
        network=network,
        on=Relink(
            lambda other: learn(problem, algorithm, other, scenario, initial_params=initial_params),
            (init, step, measure),
        ),
        drawn=Drawn(network, has_server="server" in algorithm.requires),
        params=params,
        dims=None if network.delays is None else STALENESS_DIMS,
        phase=None if algorithm.phase is None else phase_of(algorithm.phase),
    )


def _check_books(network: Network) -> None:
    """What a method without rounds can say of each node's seconds, or one line."""
    links = network.links
    if links is None or not isinstance(network.state.ledger, Ledger):
        return
    if network.barrier == "round":
        fix = "Its nodes do not wait for each other: use with_links(links, by_node=True)."
        checks.fail("learn", "network.barrier", "'exchange' for a method without rounds", "'round'", fix)
    for name in ("upload_cells", "download_cells", "jitter", "compute_jitter"):
        if getattr(links, name) is not None:
            fix = f"Use links._replace({name}=None), or a method of rounds."
            rule = "None where seconds by node are kept for a method without rounds"
            checks.fail("learn", f"links.{name}", rule, "given", fix)


def _keeps_links(scenario: Scenario, network: Network) -> bool:
    """Whether a round's network has the links it was built with; the scenario is only traced."""
    if network.links is None:
        return True
    kept: list[bool] = []

    def look(key: Array) -> None:
        _, current = scenario.step(key, scenario.init(key, network), network)
        pairs = zip(jax.tree.leaves(current.links), jax.tree.leaves(network.links), strict=True)
        kept.append(all(a is b for a, b in pairs))

    jax.eval_shape(look, jax.random.key(0))
    return kept[0]


def _check_relays(network: Network, scenario: Scenario) -> None:
    """No node is without data, or ValueError; the scenario is only traced."""

    def look(key: Array) -> None:
        _, current = scenario.step(key, scenario.init(key, network), network)
        if current.has_data is not None:
            fix = "Use dsgd, choco_sgd, stochastic_gradient_push or relay_sgd."
            checks.fail("learn", "scenario", "one in which all train for this algorithm", "nodes without data", fix)

    jax.eval_shape(look, jax.random.key(0))


def _check_names(argument: str, names: Any, legal: tuple[str, ...]) -> None:
    if not isinstance(names, set | frozenset):
        checks.fail("learn", argument, "a set of names", checks.describe(names), 'Pass e.g. frozenset({"connected"}).')
    for name in names:
        checks.one_of("learn", argument, name, legal)


def _status(algorithm: Algorithm, state: PyTree, network: Network, info: Info) -> Array:
    """Bits by node, uint32 `[N]`.  Of methods without losses the models are looked at."""
    if "loss" in info:
        bad = ~jnp.isfinite(info["loss"]) & (info["num_gradients"] > 0)
    else:
        leaves = jax.tree.leaves(algorithm.params(state))
        bad = jnp.any(jnp.stack([~jnp.all(jnp.isfinite(x.reshape(x.shape[0], -1)), axis=1) for x in leaves]), axis=0)
    if bad.shape[0] != network.num_nodes:
        rows = asked(network)[0]
        nobody = jnp.zeros(network.num_nodes, bool)
        bad = jnp.broadcast_to(jnp.any(bad), (1,)) if rows is None else nobody.at[rows].set(bad)
    found = status.flag(bad, status.NOT_FINITE)
    if network.delays is not None:
        late = jnp.stack([flight.is_late for flight in network.state.in_flight.values()] or [jnp.zeros((), bool)])
        found = found | status.flag(jnp.any(late), status.BUFFER_OVERFLOW)
    for more in (info.get("status"), network.status):
        found = found if more is None else found | more
    mask = active_edges(network)
    if mask is not None and algorithm.requires & {"row_stochastic", "column_stochastic", "doubly_stochastic"}:
        heard = jax.ops.segment_max(mask.astype(jnp.int32), network.receivers, network.num_nodes) > 0
        there = True if network.is_present is None else network.is_present
        found = found | status.flag(~heard & there, status.ISOLATED_NODE)
    if network.is_present is not None:
        found = found | status.flag(~jnp.any(network.is_present), status.NOBODY_PRESENT)
    if network.is_present is not None and "server" in algorithm.requires:
        found = found | status.flag(~jnp.any(asked(network)[1]), status.EMPTY_COHORT)
    return found
