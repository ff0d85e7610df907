"""What the nodes can say to each other: topologies, mixing weights, channels, scenarios, links, and what it cost.

`chain` composes channels or scenarios, as in optax; the topology of that name is `path`.
"""

from dlsim.channels import (
    e3m0,
    error_feedback,
    gaussian_noise,
    loss,
    quantize,
    random_k,
    random_sparsification,
    sign,
    top_k,
)
from dlsim.networks.byzantine import byzantine
from dlsim.networks.collectives.all_reduce import Collective, Reduced, collective
from dlsim.networks.collectives.orders import ring_order
from dlsim.networks.collectives.pipes import Pipes, pipes, transfer_seconds
from dlsim.networks.collectives.shared_state import Synchronized, elect, state_hash, synchronize
from dlsim.networks.compose import chain, no_scenario, perfect_channel
from dlsim.networks.converters import from_jraph, from_matrix, from_networkx, to_jraph, to_networkx
from dlsim.networks.drawing import draw
from dlsim.networks.dynamics import epidemic, time_varying
from dlsim.networks.edge_messages import reverse_edges, send_edges
from dlsim.networks.fields import Membership
from dlsim.networks.finite_time import base_graph, one_peer_exponential
from dlsim.networks.graph import Graph, graph
from dlsim.networks.graph_files import GraphFile, from_edge_list, read_graph_file
from dlsim.networks.labels import Labels
from dlsim.networks.links import Links, links
from dlsim.networks.network import Arrival, Inbox, Network, connect, host_graph
from dlsim.networks.peer_churn import peer_churn
from dlsim.networks.periods import period_gap
from dlsim.networks.random_graphs import (
    barabasi_albert,
    erdos_renyi,
    random_geometric,
    random_regular,
    stochastic_block,
    watts_strogatz,
)
from dlsim.networks.scenarios import churn, crash, link_failure, outages, participation, random_presence
from dlsim.networks.spectral import (
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
from dlsim.networks.stochastic import check_stochastic
from dlsim.networks.topologies import (
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
from dlsim.networks.weights import mixing_weights

__all__ = [
    "Arrival",
    "Collective",
    "Graph",
    "GraphFile",
    "Inbox",
    "Labels",
    "Links",
    "Membership",
    "Network",
    "Pipes",
    "Reduced",
    "Synchronized",
    "barabasi_albert",
    "base_graph",
    "binary_tree",
    "bipartite",
    "byzantine",
    "caveman",
    "chain",
    "check_stochastic",
    "chi_1",
    "chi_2",
    "churn",
    "collective",
    "complete",
    "connect",
    "crash",
    "diameter",
    "draw",
    "e3m0",
    "effective_resistances",
    "elect",
    "epidemic",
    "erdos_renyi",
    "error_feedback",
    "exponential",
    "from_edge_list",
    "from_jraph",
    "from_matrix",
    "from_networkx",
    "gaussian_noise",
    "graph",
    "grid",
    "host_graph",
    "hypercube",
    "is_connected",
    "laplacian",
    "link_failure",
    "links",
    "loss",
    "mixing_matrix",
    "mixing_rate",
    "mixing_weights",
    "no_scenario",
    "one_peer_exponential",
    "outages",
    "participation",
    "path",
    "peer_churn",
    "perfect_channel",
    "period_gap",
    "pipes",
    "quantize",
    "random_geometric",
    "random_k",
    "random_presence",
    "random_regular",
    "random_sparsification",
    "read_graph_file",
    "reverse_edges",
    "ring",
    "ring_order",
    "second_eigenvalue",
    "send_edges",
    "sign",
    "spectral_gap",
    "spectrum",
    "star",
    "state_hash",
    "stochastic_block",
    "synchronize",
    "time_varying",
    "to_jraph",
    "to_networkx",
    "top_k",
    "torus",
    "transfer_seconds",
    "watts_strogatz",
]
