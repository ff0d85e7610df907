"""Right calls of links, and of what devices are like."""

from __future__ import annotations

from contract.arguments_parts import LATER, Call, just

from dlsim import networks

LINKS: dict[str, Call] = {
    "fading": just(sigma=0.3),
    "join_links": lambda: {LATER: (networks.links(2), networks.wifi(2))},
    **{name: just(num_nodes=4) for name in ("cellular_5g", "ethernet", "links", "lognormal_devices", "wifi")},
    "rate_trace": just(path="rates.csv"),
    "session_trace": just(path="sessions.csv"),
    "sessions": just(present_seconds=60.0, absent_seconds=10.0),
    "stragglers": just(slowest=3.0),
    "trace_devices": just(path="devices.csv", num_nodes=2),
}
