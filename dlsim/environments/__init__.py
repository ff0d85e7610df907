"""Worlds that agents act in, as stacked arrays, and the policies that act in them."""

from dlsim.environments.adapters import from_jaxmarl, to_jaxmarl
from dlsim.environments.cells.cell_market import cell_market
from dlsim.environments.cells.radio import Radio
from dlsim.environments.cells.small_cells import script_bidding, script_waiting, small_cells
from dlsim.environments.checking import check
from dlsim.environments.environment import Environment, Space, auto_reset, box, discrete
from dlsim.environments.games.coin_game import coin_game
from dlsim.environments.games.matrix_games import matrix_game
from dlsim.environments.games.switch_riddle import switch_riddle
from dlsim.environments.markets.fisher import fisher_market
from dlsim.environments.particle.contest import (
    adversary as simple_adversary,
    crypto as simple_crypto,
    push as simple_push,
    tag as simple_tag,
    world_comm as simple_world_comm,
)
from dlsim.environments.particle.cooperation import (
    reference as simple_reference,
    simple,
    simple_spread,
    speaker_listener as simple_speaker_listener,
)
from dlsim.environments.pathfinding.following import follow, follow_policy, following
from dlsim.environments.pathfinding.maps import (
    maze_map,
    parse_map,
    parse_pogema,
    random_map,
    read_map,
    room_map,
    warehouse_map,
    write_map,
)
from dlsim.environments.pathfinding.planning import cost_to_go, static_penalty, waypoints
from dlsim.environments.pathfinding.world import pathfinding
from dlsim.environments.playing import play
from dlsim.environments.policies import Policy, Situation, host_policy, random_policy
from dlsim.environments.rendering.animation import animate, figure_of
from dlsim.environments.skirmish.world import skirmish
from dlsim.environments.swarm.flocking import flocking
from dlsim.environments.swarm.foraging import foraging
from dlsim.environments.swarm.metrics import group_metrics, message_metrics
from dlsim.environments.swarm.pursuit import pursuit
from dlsim.environments.swarm.scripts import (
    script_flocking,
    script_foraging,
    script_pursuit,
    script_synchronization,
    script_transport,
)
from dlsim.environments.swarm.synchronization import synchronization
from dlsim.environments.swarm.transport import transport

__all__ = [
    "Environment",
    "Policy",
    "Radio",
    "Situation",
    "Space",
    "animate",
    "auto_reset",
    "box",
    "cell_market",
    "check",
    "coin_game",
    "cost_to_go",
    "discrete",
    "figure_of",
    "fisher_market",
    "flocking",
    "follow",
    "follow_policy",
    "following",
    "foraging",
    "from_jaxmarl",
    "group_metrics",
    "host_policy",
    "matrix_game",
    "maze_map",
    "message_metrics",
    "parse_map",
    "parse_pogema",
    "pathfinding",
    "play",
    "pursuit",
    "random_map",
    "random_policy",
    "read_map",
    "room_map",
    "script_bidding",
    "script_flocking",
    "script_foraging",
    "script_pursuit",
    "script_synchronization",
    "script_transport",
    "script_waiting",
    "simple",
    "simple_adversary",
    "simple_crypto",
    "simple_push",
    "simple_reference",
    "simple_speaker_listener",
    "simple_spread",
    "simple_tag",
    "simple_world_comm",
    "skirmish",
    "small_cells",
    "static_penalty",
    "switch_riddle",
    "synchronization",
    "to_jaxmarl",
    "transport",
    "warehouse_map",
    "waypoints",
    "write_map",
]
