"""Identity and chain, for channels and scenarios alike."""

from __future__ import annotations

from typing import Any, overload

from dlsim import checks, keys
from dlsim.core import Array, Channel, Packet, PyTree, Route, Scenario
from dlsim.networks.network import PERFECT, Network


@overload
def chain(*parts: Channel) -> Channel: ...
@overload
def chain(*parts: Scenario) -> Scenario: ...
def chain(*parts: Any) -> Any:
    """Several channels, or several scenarios, as one, applied from first to last.

    The state is the tuple of the states.  Each part draws from a stream of its own, named by its place, so that putting
    a part at the end changes no draw of the others.
    """
    for kind, join in ((Channel, _chain_channels), (Scenario, _chain_scenarios)):
        if parts and all(isinstance(part, kind) for part in parts):
            return parts[0] if len(parts) == 1 else join(parts)
    got = ", ".join(type(part).__name__ for part in parts) or "nothing"
    return checks.fail("chain", "parts", "all channels or all scenarios", got)


def _sources(parts: tuple[Any, ...]) -> str:
    return "; ".join(part.source for part in parts if part.source)


def _chain_channels(parts: tuple[Channel, ...]) -> Channel:
    if any(part.is_sum for part in parts[:-1]):
        got = "secure_aggregation before another channel"
        checks.fail("chain", "parts", "such that what sums over senders stands last", got, "chain(..., that one)")

    if any("edges" in part.needs for part in parts[:-1]):
        fix = "What it tells each receiver passes no channel after it: chain(..., that one)."
        rule = "such that what says something else to each receiver stands last"
        checks.fail("chain", "parts", rule, "byzantine before another channel", fix)

    def init(message: PyTree, num_senders: int) -> tuple[PyTree, ...]:
        return tuple(part.init(message, num_senders) for part in parts)

    def send(key: Array, state: tuple[PyTree, ...], packet: Packet, route: Route) -> tuple[tuple[PyTree, ...], Packet]:
        new = []
        for place, (part, part_state) in enumerate(zip(parts, state, strict=True)):
            part_state, packet = part.send(keys.stream(key, f"part {place}"), part_state, packet, route)
            new.append(part_state)
        return tuple(new), packet

    codecs = [part.codec for part in parts]
    codec = None if None in codecs else tuple(one for codec in codecs for one in codec or ())
    needs = frozenset().union(*(part.needs for part in parts))
    return Channel(init=init, send=send, source=_sources(parts), is_sum=parts[-1].is_sum, codec=codec, needs=needs)


def _chain_scenarios(parts: tuple[Scenario, ...]) -> Scenario:
    def init(key: Array, network: Network) -> tuple[PyTree, ...]:
        return tuple(part.init(keys.stream(key, f"part {place}"), network) for place, part in enumerate(parts))

    def step(key: Array, state: tuple[PyTree, ...], network: Network) -> tuple[tuple[PyTree, ...], Network]:
        new = []
        for place, (part, part_state) in enumerate(zip(parts, state, strict=True)):
            part_state, network = part.step(keys.stream(key, f"part {place}"), part_state, network)
            new.append(part_state)
        return tuple(new), network

    declared = [part.properties for part in parts if part.properties is not None]
    return Scenario(init=init, step=step, source=_sources(parts), properties=declared[-1] if declared else None)


def perfect_channel() -> Channel:
    """The unit of channels: everything arrives as it was sent."""
    return PERFECT


def no_scenario() -> Scenario:
    """The unit of scenarios: everyone is there and every link works."""

    def init(key: Array, network: Network) -> tuple[()]:
        del key, network
        return ()

    def step(key: Array, state: tuple[()], network: Network) -> tuple[tuple[()], Network]:
        del key
        return state, network

    return Scenario(init=init, step=step)
