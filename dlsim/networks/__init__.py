"""What the nodes can say to each other: topologies, mixing weights, channels, scenarios, links, and what it cost.

`chain` composes channels or scenarios, as in optax; the topology of that name is `path`.
"""

from dlsim.channels import (
    clipped_rounding,
    decode,
    dp_gaussian,
    e3m0,
    ef21,
    encode,
    error_feedback,
    fedzip,
    gaussian_noise,
    integers,
    kmeans,
    log_quantize,
    loss,
    low_rank,
    min_max,
    poisson_binomial,
    quantize,
    random_k,
    random_sparsification,
    rqm,
    secure_aggregation,
    sign,
    to_server,
    top_k,
)
from dlsim.networks.byzantine import alie_strength, byzantine
from dlsim.networks.collectives.all_reduce import Collective, Reduced, collective
from dlsim.networks.collectives.orders import ring_order
from dlsim.networks.collectives.pipes import Pipes, pipes, transfer_seconds
from dlsim.networks.collectives.shared_state import Synchronized, elect, state_hash, synchronize
from dlsim.networks.compose import chain, no_scenario, perfect_channel
from dlsim.networks.edge_messages import reverse_edges, send_edges, sum_at_receivers
from dlsim.networks.fields import Membership
from dlsim.networks.flight.delays import Delays, fixed_delay, geometric_delay, link_delay, random_delay, trace_delay
from dlsim.networks.flight.timed import fixed_seconds, link_seconds, log_normal_seconds, random_seconds, trace_seconds
from dlsim.networks.graphs.converters import from_jraph, from_matrix, from_networkx, to_jraph, to_networkx
from dlsim.networks.graphs.drawing import draw
from dlsim.networks.graphs.finite_time import base_graph, one_peer_exponential
from dlsim.networks.graphs.graph import Graph, graph
from dlsim.networks.graphs.graph_files import GraphFile, from_edge_list, read_graph_file
from dlsim.networks.graphs.labels import Labels
from dlsim.networks.graphs.periods import period_gap
from dlsim.networks.graphs.random_graphs import (
    barabasi_albert,
    erdos_renyi,
    random_geometric,
    random_regular,
    stochastic_block,
    watts_strogatz,
)
from dlsim.networks.graphs.spectral import (
    chi_1,
    chi_2,
    diameter,
    effective_resistances,
    is_connected,
    laplacian,
    mixing_matrix,
    mixing_rate,
    second_eigenvalue,
    spectral_gap,
    spectrum,
)
from dlsim.networks.graphs.stochastic import check_stochastic
from dlsim.networks.graphs.sybils import Joined, join_sybils, limit_degrees
from dlsim.networks.graphs.topologies import (
    binary_tree,
    bipartite,
    caveman,
    chain as path,
    complete,
    exponential,
    grid,
    hypercube,
    ring,
    star,
    torus,
)
from dlsim.networks.graphs.weights import mixing_weights
from dlsim.networks.matcha import Matcha, matcha
from dlsim.networks.membership.tape import SamplingTape, sampling_tape
from dlsim.networks.membership.turnover import Turnover, turnover
from dlsim.networks.network import Arrival, Inbox, Network, Sent, connect, host_graph
from dlsim.networks.pace.device_traces import Devices, lognormal_devices, trace_devices
from dlsim.networks.pace.devices import fading, rate_trace, session_trace, sessions, stragglers
from dlsim.networks.pace.links import Links, Watts, join_links, links
from dlsim.networks.pace.media import cellular_5g, ethernet, wifi
from dlsim.networks.scenes.batteries import batteries
from dlsim.networks.scenes.dynamics import epidemic, time_varying
from dlsim.networks.scenes.mobility import position_trace, random_waypoint
from dlsim.networks.scenes.outages import disaster, outages, relays, split
from dlsim.networks.scenes.peer_churn import peer_churn
from dlsim.networks.scenes.peer_sampling import peer_sampling
from dlsim.networks.scenes.presence import churn, crash, link_failure, participation, random_presence
from dlsim.networks.scenes.schedules import (
    given_rounds,
    periodic_rounds,
    ramp_rounds,
    random_neighbors,
    scheduled_links,
    window_rounds,
)
from dlsim.networks.scenes.victims import components, victims
from dlsim.networks.scenes.weighing import reweigh

__all__ = [
    "Arrival",
    "Collective",
    "Delays",
    "Devices",
    "Graph",
    "GraphFile",
    "Inbox",
    "Joined",
    "Labels",
    "Links",
    "Matcha",
    "Membership",
    "Network",
    "Pipes",
    "Reduced",
    "SamplingTape",
    "Sent",
    "Synchronized",
    "Turnover",
    "Watts",
    "alie_strength",
    "barabasi_albert",
    "base_graph",
    "batteries",
    "binary_tree",
    "bipartite",
    "byzantine",
    "caveman",
    "cellular_5g",
    "chain",
    "check_stochastic",
    "chi_1",
    "chi_2",
    "churn",
    "clipped_rounding",
    "collective",
    "complete",
    "components",
    "connect",
    "crash",
    "decode",
    "diameter",
    "disaster",
    "dp_gaussian",
    "draw",
    "e3m0",
    "ef21",
    "effective_resistances",
    "elect",
    "encode",
    "epidemic",
    "erdos_renyi",
    "error_feedback",
    "ethernet",
    "exponential",
    "fading",
    "fedzip",
    "fixed_delay",
    "fixed_seconds",
    "from_edge_list",
    "from_jraph",
    "from_matrix",
    "from_networkx",
    "gaussian_noise",
    "geometric_delay",
    "given_rounds",
    "graph",
    "grid",
    "host_graph",
    "hypercube",
    "integers",
    "is_connected",
    "join_links",
    "join_sybils",
    "kmeans",
    "laplacian",
    "limit_degrees",
    "link_delay",
    "link_failure",
    "link_seconds",
    "links",
    "log_normal_seconds",
    "log_quantize",
    "lognormal_devices",
    "loss",
    "low_rank",
    "matcha",
    "min_max",
    "mixing_matrix",
    "mixing_rate",
    "mixing_weights",
    "no_scenario",
    "one_peer_exponential",
    "outages",
    "participation",
    "path",
    "peer_churn",
    "peer_sampling",
    "perfect_channel",
    "period_gap",
    "periodic_rounds",
    "pipes",
    "poisson_binomial",
    "position_trace",
    "quantize",
    "ramp_rounds",
    "random_delay",
    "random_geometric",
    "random_k",
    "random_neighbors",
    "random_presence",
    "random_regular",
    "random_seconds",
    "random_sparsification",
    "random_waypoint",
    "rate_trace",
    "read_graph_file",
    "relays",
    "reverse_edges",
    "reweigh",
    "ring",
    "ring_order",
    "rqm",
    "sampling_tape",
    "scheduled_links",
    "second_eigenvalue",
    "secure_aggregation",
    "send_edges",
    "session_trace",
    "sessions",
    "sign",
    "spectral_gap",
    "spectrum",
    "split",
    "star",
    "state_hash",
    "stochastic_block",
    "stragglers",
    "sum_at_receivers",
    "synchronize",
    "time_varying",
    "to_jraph",
    "to_networkx",
    "to_server",
    "top_k",
    "torus",
    "trace_delay",
    "trace_devices",
    "trace_seconds",
    "transfer_seconds",
    "turnover",
    "victims",
    "watts_strogatz",
    "wifi",
    "window_rounds",
]
