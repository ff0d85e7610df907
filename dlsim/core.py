"""The nouns of dlsim, on one page.

A **Process** is anything that evolves; the simulator runs nothing else.  `dlsim.learn` ties a Problem (what the nodes
want), an Algorithm (what they do), a Network (what they can say to each other) and a Scenario (what happens to them)
into one Process.  Every noun is a bundle of pure functions, so nouns are built inside `jit` and `vmap` as freely as
outside: a float given to a factory may be a tracer, an int, a bool or a string is structure.

Letters: N nodes, n some of them, E directed edges, L transmissions, K local steps, B batch, D parameters.
Keys come first.  A draw depends on (seed, step, node id, purpose) alone; see `dlsim.keys`.  State in equals State out in
structure, shape and dtype.  Leaves that belong to nodes lead with N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
PyTree = Any
State = Any
# What a person may want to look at; `loss` [N] and `num_gradients` [N] (both or neither) and `status` have a meaning.
Info = dict[str, Any]


class InitFn(Protocol):
    def __call__(self, key: Array, /) -> State: ...


class StepFn(Protocol):
    def __call__(self, key: Array, state: State, /) -> tuple[State, Info]: ...


class MeasureFn(Protocol):
    def __call__(self, state: State, info: Info, /) -> Info: ...


class ParamsFn(Protocol):
    def __call__(self, state: State, /) -> PyTree: ...


def _line(kind: str, parts: list[str]) -> str:
    return f"{kind}({', '.join(part for part in parts if part)})"


def _sources(sources: tuple[str, ...]) -> str:
    return f"after {'; '.join(filter(None, sources))}" if any(sources) else ""


class Process(NamedTuple):
    """Anything that evolves: a learning run, a market, a swarm.

    `init(key) -> state`; `step(key, state) -> (state, info)`; `measure(state, info) -> dict` is what `Record` keeps
    when the user names nothing else (scalars, or small labelled arrays).  `sources` are the papers behind the parts.

    What is optional serves those who run many processes, or one on many devices: `num_nodes` says which leading axis is
    the nodes', to be laid over devices; `network` is what they are connected by, and `on` makes the same process over another
    of the same nodes, so that a sweep can bring topologies to one form.  `feed` is what the host prepares for steps,
    `phase` what it does between them, `drawn` what drawings show beside `network`.

    `params(state)` gives the models that a state holds, every leaf `[N, ...]`, or `[1, ...]` where one is learned: those
    that `measure` evaluates and `Run.params` gives; None: none.  `dims` names the axes of what `measure` gives.
    """

    init: InitFn
    step: StepFn
    measure: MeasureFn | None = None
    sources: tuple[str, ...] = ()
    num_nodes: int | None = None
    network: Any = None
    on: Relink | None = None
    feed: Feed | None = None
    drawn: Drawn | None = None
    params: ParamsFn | None = None
    dims: Mapping[str, Sequence[str]] | None = None
    phase: Phase | None = None

    def __repr__(self) -> str:
        parts = ["" if self.num_nodes is None else f"{self.num_nodes} nodes"]
        network = self.network if self.drawn is None else self.drawn.network
        parts += ["" if network is None else f"over {network!r}", _sources(self.sources)]
        parts += ["fed by the host" if self.feed is not None else "", "" if self.measure else "measures nothing"]
        parts += ["with a phase on the host" if self.phase is not None else ""]
        return _line("Process", parts)

    def over(self, network: Any) -> Process | None:
        """The same process over another network of the same nodes; None where nobody knows how."""
        if self.on is None or any(a is not b for a, b in zip(self.on.parts, self[:3], strict=True)):
            return None
        return self.on.make(network)


class Drawn(NamedTuple):
    """What a drawing shows of a process; nothing is computed with it."""

    network: Any
    has_server: bool = False  # messages go to a server and come from it, and not from node to node


class Relink(NamedTuple):
    """How to make a process over another network.  Void for one whose functions were replaced since."""

    make: Callable[[Any], Process]
    parts: tuple[Any, Any, Any]  # the init, step and measure that it was made with


class Feed(NamedTuple):
    """What the host prepares for a process on the way: a tape of events, a schedule, the next part of a stream.

    `fill(key, step) -> (part, until)` is a pure function of the run's key and the step: NumPy arrays for a stretch of steps
    that holds `step` and ends before `until`, the same whichever of its steps is asked for, so that a resumed run finds what
    an unbroken one had.  `put(state, part)` lays it into the state: it replaces leaves and computes nothing.
    """

    fill: Callable[[Array, int], tuple[PyTree, int]]
    put: Callable[[State, PyTree], State]


class Phase(NamedTuple):
    """The host's work on a state between compiled steps: clustering, assignment.  After each step t (from 1) with
    t % every == 0, and before it is recorded or kept:
        view = read(state);  view = work(key, t, view);  state = write(key, state, view)
    `read` and `write` are compiled; `work` is Python on NumPy arrays, of one run at a time, a pure function that gives a
    view of the same structure, shapes and dtypes.  Whoever calls `process.step` himself does the phase himself.
    """

    every: int
    read: Callable[[State], PyTree]
    work: Callable[[Array, int, PyTree], PyTree]
    write: Callable[[Array, State, PyTree], State]


class Record(NamedTuple):
    """What is kept from a run, and how often: at step 0, after every `every` steps, and at the end.

    `fn(state, info) -> dict` gives one record, arrays of any shape by name; `fn=None` keeps what the process measures
    itself (`process.measure`, which `fn` may call as well).  It is called with two arguments, by place:

    - `state`, after the step that is recorded (at step 0: the first one), as `process.step` gives it, of one run: with
      several seeds `fn` is vectorised over them and never sees their axis.  `process.params(state)` are the models, every
      leaf `[N, ...]` (`[1, ...]` for one at a server).  Of `dlsim.learn` it has `state.network` (traffic, clock) and, by
      kind of method, `state.algorithm` (rounds), `state.nodes` (clocks) or `state.params` and `state.server` (arrivals).
    - `info`, the dict that this step gave, of the last step alone and not summed since the last record: `loss` `[N]` and
      `num_gradients` `[N]` where nodes learn (`[n]` of a cohort), and what a method adds.  At step 0 all is NaN, or 0.
    - `fn` is traced once and runs inside the compiled program, so it computes with `jax.numpy` and prints nothing.

    In `run.results`, and in what a sweep gives, a record has the dimensions (`seed`,) `step` and then its own axes: a first
    one of N entries, of N nodes, is called `node`, any other `<name>_<axis>`, or as `dims={"by_class": ("class",)}` says.

    Each node's distance from the mean, beside what is measured anyway:

        def record(state, info):
            distance = jnp.linalg.norm(process.params(state) - process.params(state).mean(0), axis=1)
            return {**process.measure(state, info), "distance": distance}

        run = dlsim.simulate(process, seed=0, num_steps=100, record=dlsim.Record(every=10, fn=record))
        run.results.distance  # dimensions step, node; a column `node` in dlsim.analysis.to_csv
    """

    every: int = 1
    fn: MeasureFn | None = None
    dims: Mapping[str, Sequence[str]] | None = None  # names of the axes of what is recorded, by record


class GradientFn(Protocol):
    def __call__(self, key: Array, params: PyTree, node_ids: Array, /) -> tuple[PyTree, Array]: ...


class WarmProximal(NamedTuple):
    """A proximal map that is found by iterations, each call going on from where the node's last one ended.

    `init(node_ids [n]) -> memory [n, ...]`; `solve(params [n, ...], rho [] or [n], node_ids [n], memory) -> (prox of
    f_i / rho at params, memory)`.  rho is above 0; at a fixed point of the method that calls it, the map is exact.
    """

    init: Any
    solve: Any


class Problem(NamedTuple):
    """What the nodes want.  Knows nothing of networks or algorithms.

    Every function that serves nodes takes their ids and works on any n of them, so that cohorts, waves and blocks of
    nodes cost what they hold.  The objective is f(x) = mean_i f_i(x), each f_i the loss on node i's data.
    """

    num_nodes: int
    init: InitFn  # (key) -> params of one node, [...]
    loss: Any  # (params [...], batch [...]) -> scalar, one node
    sample: Any  # (key, node_ids [n]) -> batch [n, B, ...], drawn from each node's own data
    gradient: GradientFn  # (key, params [n, ...], node_ids [n]) -> (stochastic gradients [n, ...], losses [n])
    full_gradient: GradientFn  # the same on all of each node's data; the key is not used
    evaluate: Any  # (params [n, ...], node_ids [n] | None) -> dict of [n]: the global objective and test metrics
    num_examples: Any  # [N] sizes of the nodes' data (host array), the usual aggregation weights
    batch_size: int = 1  # examples behind one call of `gradient`, per node
    optimum: PyTree | None = None  # argmin of f where a closed form is known, [...]
    proximal: Any | None = None  # (params [n, ...], rho, node_ids [n]) -> prox of f_i/rho at params, where closed
    warm_proximal: WarmProximal | None = None  # the same map where it takes iterations, with a memory
    smoothness: Callable[[], Any] | None = None  # () -> L of which every f_i is L-smooth, where it is known
    strong_convexity: Callable[[], Any] | None = None  # () -> mu of which every f_i is mu-strongly convex, likewise
    conjugate: Any | None = None  # (duals [n, ...], node_ids [n]) -> argmin_x f_i(x) - <dual, x>, where closed
    node_block: int | str | None = None  # nodes to work on at a time; None: all at once; "auto": as many as fit
    # (key, params, node_ids, positions [n, B] in a node's own examples, mask [n, B]) -> as `gradient`; None: no examples
    gradient_at: Any | None = None
    # With running statistics: the problem whose gradients carry their change; this one's own are refused (problems.variables)
    with_statistics: Problem | None = None
    source: str = ""
    start: Any | None = None  # (key, node_ids [n]) -> what these nodes start with, [n, ...]; None: all from `init`
    model: Any | None = None  # the dlsim.problems.Model that is learned, where there is one
    num_passes: int = 1  # gradients taken of each example behind one call of `gradient`
    own_tests: Any | None = None  # (node_ids [n]) -> (batch [n, T, ...], mask [n, T]) of examples to test on, if any

    @property
    def evaluations(self) -> int:
        """Gradient evaluations behind one call of `gradient`, per node."""
        return self.batch_size * self.num_passes

    def __repr__(self) -> str:
        made = getattr(self.gradient, "__qualname__", "").partition(".<locals>")[0]
        known = ("optimum", "proximal", "warm_proximal", "conjugate", "smoothness", "strong_convexity", "start")
        held = [f"with {name}" for name in known if getattr(self, name) is not None]
        batch = f"batches of {self.batch_size}" if self.batch_size != 1 else ""
        return _line("Problem", [f"{self.num_nodes} nodes", made, batch, *held, _sources((self.source,))])


# What a network may be, and what a method may require of it.
PROPERTIES = ("connected", "undirected", "row_stochastic", "column_stochastic", "doubly_stochastic", "symmetric")
REQUIREMENTS = (*PROPERTIES, "fixed_topology", "common_start", "dual_start", "prompt", "server")


class Algorithm(NamedTuple):
    """What the nodes do: a learning method over any Network.

    `init(key, params [N, ...], network) -> state`; `step(key, state, network) -> (state, network, info)`.  A step
    reads like the paper's pseudocode: who talks to whom, what is lost, compressed or late, and what it cost, is the
    Network's affair.  `params(state)` gives the models to evaluate, `[N, ...]` (`[1, ...]` for one at a server).
    `requires` names the properties of the network without which the method is not defined, `fixed_topology` where its
    state belongs to edges, `common_start` where all nodes start from one model, `server` where nodes talk to one,
    `prompt` where messages are void after their round, `dual_start` where first models follow from duals; `learn` checks
    these (`REQUIREMENTS`).  Where it `lets_relay`, nodes without data (see `network.trainers`) do not train in a round.
    """

    init: Any
    step: Any
    params: Any = lambda state: state.params
    requires: frozenset[str] = frozenset()
    source: str = ""
    phase: Phase | None = None  # of its own state: what the host does after every so many rounds
    lets_relay: bool = False
    aggregator: Aggregator | None = None  # its rule for what is heard, whose bound `learn` checks


class EventAlgorithm(NamedTuple):
    """What the nodes do when their clocks say so: an asynchronous learning method over any Network.

    Rows are what the nodes hold, every leaf `[n, ...]`; functions work on any n rows, whose events share no node, and
    treat each by itself: row k of a result depends on row k of the arguments, draws on `keys[k]`.  Infos may hold `loss`
    `[n]`, `num_gradients` uint32 `[n]` and `staleness` uint32 `[n]`, all or none of them.

    Where `communication` is "edges", linked nodes meet in pairs and both do the same; with "links" (a clock a directed
    link) or "nodes" (a clock a node, which picks a neighbour) one sends to the other.
    Where messages take time (`Network.with_delays`), each is heard by itself when it arrives: with `hear` "newest" not those
    that a later one over the same link overtook, with "all" every one.  Meetings at one instant require `prompt`.
    """

    init: Any  # (key, params [N, ...], network) -> rows [N, ...]
    on_message: Any = None  # (keys [n], rows, heard [n, ...], node_ids [n]) -> (rows, info): a message arrived
    message: Any = lambda rows: rows.params  # (rows) -> what is sent, [n, ...]; no channel touches integers
    before_message: Any = None  # (keys [n], rows, node_ids [n]) -> (rows, info): what a sender does first
    on_gradient: Any = None  # (keys [n], rows, node_ids [n]) -> (rows, info): a gradient event
    flow: Any = None  # (rows, seconds [n]) -> rows: how nodes evolve between their events, a semigroup in time
    clocks: Any = None  # (network, Timing) -> Timing of a method set for certain ones, or a refusal; None: any
    params: Any = lambda rows: rows.params  # (rows) -> models to evaluate, [N, ...]
    communication: str = "edges"
    trains: bool = True  # whether its infos hold losses
    may_be_silent: bool = False  # whether `before_message` says in `info["sends"]`, bool [n], who of the senders sends
    requires: frozenset[str] = frozenset()
    source: str = ""
    hear: str = "newest"
    on_late: Any = None  # as `on_message`, for a message that was under way; None: the same
    lets_relay: bool = False  # trains at gradient events alone, of which nodes without data have none


class ArrivalAlgorithm(NamedTuple):
    """What a server makes of the work of clients that come back one after the other: asynchronous federated learning.

    A job is one client's local work on the version of the model it was sent; when jobs begin and end, and which make a new
    version, is the schedule's affair (`dlsim.arrivals`).  `work` serves n jobs side by side, row k by itself; `absorb` takes
    in one message after the other.
    """

    schedule: Any  # (network) -> dlsim.arrivals.Schedule
    init: Any  # (key, params [...], num_clients) -> server, what the server keeps beside its model
    work: Any  # (keys [n], params [n, ...], node_ids [n], num_steps [n], versions [n]) -> (messages [n, ...], info of [n])
    absorb: Any  # (server, params [...], message [...], job) -> (server, params)
    requires: frozenset[str] = frozenset()
    source: str = ""


class Job(NamedTuple):
    """One job as `absorb` sees it, every field `[]`."""

    client: Array  # int32 position
    coefficient: Array  # float32, from the schedule
    staleness: Array  # uint32 versions made since it began
    arrived: Array  # bool; False: its message was lost, what is given is zero
    is_direct: Array  # bool: applied alone, what is collected stays
    is_last: Array  # bool: a version is made after it


SERVER = -1


class Route(NamedTuple):
    """Who sends to whom in one exchange of messages.  Node ids, not positions; the server is `SERVER`."""

    node_ids: Array  # [n] the sender of each row of the message
    senders: Array  # [L] sender's id of each transmission
    receivers: Array  # [L] receiver's id of each transmission
    acting: Array | None = None  # bool [n] which of the senders speak in this round; None: all
    edges: Any = None  # where a sender may say something else to each neighbour: a `networks.fields.Edges`


class Packet(NamedTuple):
    """One message a sender: what is on the air, its size, and which transmissions of it arrive."""

    values: PyTree  # [n, ...]
    num_entries: Array  # uint32 [n] numbers sent
    bits_per_entry: Array  # uint32 [n] bits of each
    extra_bits: Array  # uint32 [n] indices, scales, headers
    delivered: Array | None = None  # bool [L]; None: all
    is_sent: Array | None = None  # bool [n, D], all leaves side by side: which numbers are sent; None: all of them
    beside: tuple[PyTree, ...] = ()  # what each compressor sends beside the numbers, [n, ...]: scales, seeds
    heard: Any = None  # where messages take time: a `dlsim.networks.flight.in_flight.Heard` in their place
    told: Any = None  # what some say to each receiver in their place: `dlsim.networks.fields.Told`


class Channel(NamedTuple):
    """What happens to every message: compression, quantisation, noise, loss.  Channels `chain`.

    `init(message [n, ...], num_senders) -> state`, once a stream of like messages, every leaf leading with num_senders;
    `send(key, state [n, ...], packet, route) -> (state, packet)`.  A sender that is absent keeps its state.
    `codec` says how a message is written bit by bit, one `dlsim.channels.bits.Part` for each compressor within.
    With `is_sum` a receiver learns a sum over the senders and no message of theirs (`secure_aggregation`): such a channel
    leads to a server, and is the last of a chain.  `needs` is what it has to know beside a sender's own message: "others",
    what all say in the same exchange, "edges", who hears whom (`Route.edges`).
    """

    init: Any
    send: Any
    source: str = ""
    codec: tuple[Any, ...] | None = None  # (): sends what it is given; None: nobody has said how
    is_sum: bool = False
    needs: frozenset[str] = frozenset()


class Scenario(NamedTuple):
    """What happens to the nodes and links, round by round: churn, cohorts, failures, new topologies.  Scenarios `chain`.

    `init(key, network) -> state`; `step(key, state, network) -> (state, network)`, given the network as it was built and
    returning it as it is in this round.  One that replaces the topology says which `properties` its networks have.
    """

    init: Any
    step: Any
    source: str = ""
    properties: frozenset[str] | None = None  # among PROPERTIES; None: those of the network it is given


class LinearRule(NamedTuple):
    """What a rule needs that asks for no message by itself, only for weighted means of them and of a few numbers of each.

    `reduce(values [n, ...]) -> numbers [n, ...]`, row by row, what is asked of a message beside its values; `()`: nothing.
    `finish(own, mixed, share [n]) -> aggregated [n, ...]`: `own` and `mixed` are pairs (values, numbers), of the node itself
    and own + sum_j w_j (heard_j - own), and share = sum_j w_j.
    """

    reduce: Any
    finish: Any


class Aggregator(NamedTuple):
    """How a receiver turns what it heard into one value: mean, median, Krum, ...

    `init(params [N, ...]) -> state`, every leaf leading with N; `apply(key, state, own [n, ...], inbox) -> (state,
    aggregated [n, ...])`, for any n receivers, each by itself.  Where `linear` says the same of means alone nobody holds
    the messages, `[N, K, ...]` (`dlsim.aggregators.linear`).  `bound` is how many candidates a node must have.
    A rule may judge models by the data of the node that heard them: it is made with the Problem, and asks it for the nodes
    `inbox.node_ids` (`dlsim.problems.own_losses`, `own_outputs`).  A server has no data: they are None, and it refuses.
    """

    init: Any
    apply: Any
    source: str = ""
    linear: LinearRule | None = None
    bound: Any = None  # dlsim.aggregators.bounds.Bound
    is_whole: bool = False  # what a receiver makes depends on what others heard: all are served at once
    ask: Any = None  # (key, state, network) -> (state, network): messages of the rule's own, before what is heard
