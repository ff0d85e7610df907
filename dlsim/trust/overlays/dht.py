"""A distributed hash table: lookups and records under failures."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlsim import checks, keys
from dlsim.core import Array, Info, Process, Scenario
from dlsim.networks.messages import count
from dlsim.networks.network import Network
from dlsim.running import counters
from dlsim.trust.draws import share_of
from dlsim.trust.overlays.kademlia import Found, Ring, lookup, make_ring, nearest, random_present
from dlsim.trust.rounds import check_world, in_rounds

QUESTION_BITS, CONTACT_BITS = 320, 304  # 40 and 38 bytes


class Table(NamedTuple):
    """Who holds what, and how the last lookups went."""

    ring: Ring
    record_keys: Array  # uint32 [R]
    holders: Array  # int32 [R, r] nodes, -1: fewer
    is_kept: Array  # bool [R] a holder is there
    is_altering: Array  # bool [N] whose copies are not what was stored
    rounds: Array  # int32 [Q]
    messages: Array  # int32 [Q]
    timeouts: Array  # int32 [Q]
    is_closest: Array  # bool [Q] the closest node that is there was found
    is_found: Array  # bool [Q] one of the k closest found holds the record
    is_audited: Array  # bool [Q] and its copy has the record's hash
    step: Array  # int32 [] done


@checks.typed
def dht(
    network: Network,
    *,
    num_lookups: int = 100,
    bits: int = 32,
    bucket_size: int = 8,
    parallelism: int = 3,
    num_records: int = 0,
    copies: int = 3,
    republish_every: int | None = None,
    altering: float | Array = 0.0,
    scenario: Scenario | None = None,
) -> Process:
    """Kademlia: every step Q nodes, drawn among those that are there, look up keys, all side by side.

    An id or a key is a number of `bits` bits; the distance of two is d(a, b) = a xor b, read as a number.  A node's bucket
    l holds at most k of the nodes with floor(log2 d) = l, drawn once.  A lookup knows the k contacts of its asker closest to
    the key, asks the alpha closest unasked ones at a time, and adds the k closest contacts of those that answer, until the k
    closest that it knows have answered.  Who is away (a scenario's doing) costs a message, and is dropped.  Tables are not
    repaired: those away stay in them.

    Records are held by the r closest nodes that a lookup finds before anybody fails, and anew at every `republish_every`
    steps while somebody is there that holds them; older copies expire then.  Lookups are for records where there are any,
    each as likely, else for keys drawn at random.  Who alters what it holds answers as others do; an audit compares the
    copies found with the record's hash, which a ledger keeps, and passes if one of them has it.

    The process measures means over the step's lookups: `rounds`, `messages` (questions), `timeouts`, `success` (the closest
    node that is there was found) and, with records, `found` (one of the k closest found holds it), `audited` (and its copy
    is unaltered), `kept` (share of the records of which a holder is there) and `records_per_node` (the mean); `bits_sent` is
    that of questions and answers.

    Args:
      network: its nodes; who knows whom is the tables' affair, and its links play no part.
      num_lookups: Q a step, 1 or more; structural, as all but the scenario's rates.
      bits: of an id, 1 to 32, at least twice as many ids as nodes.
      bucket_size: k, 1 or more (20 is common in practice).
      parallelism: alpha; more than k are k.
      num_records: R, 0 or more.
      copies: r, 1 to k.
      republish_every: steps; None: never.
      altering: share of the nodes, drawn once, in [0, 1]; may be traced.
      scenario: who is there.

    Cost a round of a lookup: O(alpha bits (k^2 + log N)); memory O(N + Q alpha bits k).
    Source: Maymounkov, Mazieres, Kademlia: a peer-to-peer information system based on the XOR metric, IPTPS 2002.
      Differs: buckets are drawn at random, not by who was seen; lookups do not fill them.
    """
    where = "dht"
    check_world(where, network, scenario, 2)
    num, ids = network.num_nodes, network.node_ids
    num_lookups = checks.integer(where, "num_lookups", num_lookups, 1, 2**24)
    bits = checks.integer(where, "bits", bits, 1, 32)
    if 2**bits < 2 * num:
        fix = f"Use bits={(2 * num - 1).bit_length()} or more."
        checks.fail(where, "bits", f"enough for twice as many ids as the {num} nodes", bits, fix)
    bucket_size = checks.integer(where, "bucket_size", bucket_size, 1, 64)
    parallelism = min(checks.integer(where, "parallelism", parallelism, 1), bucket_size)
    num_records = checks.integer(where, "num_records", num_records, 0, 2**24)
    copies = checks.integer(where, "copies", copies, 1, bucket_size)
    if republish_every is not None:
        checks.integer(where, "republish_every", republish_every, 1)
    checks.probability(where, "altering", altering)

    def search(ring: Ring, is_there: Array, askers: Array, targets: Array) -> Found:
        options = {"bits": bits, "bucket_size": bucket_size, "parallelism": parallelism}
        return lookup(ring, ids, is_there, askers, targets, **options)

    def start(key: Array) -> Table:
        ring = make_ring(keys.stream(key, "ids"), ids, bits)
        record_keys = keys.node_bits(keys.stream(key, "records"), jnp.arange(num_records), 1)[:, 0] >> (32 - bits)
        everyone = jnp.ones(num, bool)
        holders = jnp.zeros((0, copies), jnp.int32)
        if num_records:
            askers = random_present(keys.stream(key, "owners"), everyone, num_records)
            holders = search(ring, everyone, askers, record_keys).nodes[:, :copies]
        nothing = jnp.zeros(num_lookups, jnp.int32)
        return Table(
            ring=ring,
            record_keys=record_keys,
            holders=holders,
            is_kept=jnp.ones(num_records, bool),
            is_altering=share_of(keys.stream(key, "altering"), ids, altering),
            rounds=nothing,
            messages=nothing,
            timeouts=nothing,
            is_closest=nothing > 0,
            is_found=nothing > 0,
            is_audited=nothing > 0,
            step=jnp.zeros((), jnp.int32),
        )

    def counted(current: Network, askers: Array, found: Found) -> Network:
        asked = jnp.zeros(num, jnp.uint32).at[askers].add(found.messages.astype(jnp.uint32))
        sizes = (jnp.full(num, size, jnp.uint32) for size in (QUESTION_BITS, bucket_size * CONTACT_BITS))
        for copies_sent, size in zip((asked, found.answered), sizes, strict=True):
            current = count(current, copies_sent, counters.from_words(size))
        return current

    def one_round(key: Array, own: Table, current: Network) -> tuple[Table, Network, Info]:
        is_there = jnp.ones(num, bool) if current.is_present is None else current.is_present
        step = own.step + 1
        holders = own.holders
        if num_records and republish_every is not None:
            holds = _there(is_there, holders)
            # The first holder that is there publishes for all.
            askers = jnp.maximum(jnp.take_along_axis(holders, jnp.argmax(holds, axis=1)[:, None], axis=1)[:, 0], 0)

            def publish(current: Network) -> tuple[Array, Network]:
                found = search(own.ring, is_there, askers, own.record_keys)
                made = jnp.where(jnp.any(holds, axis=1)[:, None], found.nodes[:, :copies], holders)
                return made, counted(current, askers, found)

            is_due = step % republish_every == 0
            made, state = jax.lax.cond(
                is_due,
                lambda state: (lambda out: (out[0], out[1].state))(publish(current.with_state(state))),
                lambda state: (holders, state),
                current.state,
            )
            holders, current = made, current.with_state(state)
        askers = random_present(keys.stream(key, "askers"), is_there, num_lookups)
        words = keys.node_bits(keys.stream(key, "targets"), jnp.arange(num_lookups), 1)[:, 0]
        wanted = (words % jnp.uint32(max(num_records, 1))).astype(jnp.int32)
        targets = own.record_keys[wanted] if num_records else words >> (32 - bits)
        found = search(own.ring, is_there, askers, targets)
        is_found = is_audited = jnp.zeros(num_lookups, bool)
        if num_records:
            by = holders[wanted]
            holds = jnp.any((found.nodes[:, :, None] == by[:, None, :]) & (by[:, None, :] >= 0), axis=1)
            is_found = jnp.any(holds, axis=1)
            is_audited = jnp.any(holds & ~own.is_altering[jnp.maximum(by, 0)], axis=1)
        own = own._replace(
            holders=holders,
            is_kept=jnp.any(_there(is_there, holders), axis=1),
            rounds=found.rounds,
            messages=found.messages,
            timeouts=found.timeouts,
            is_closest=found.nodes[:, 0] == nearest(own.ring, is_there, targets, bits),
            is_found=is_found,
            is_audited=is_audited,
            step=step,
        )
        return own, counted(current, askers, found), {}

    def measure(own: Table, info: Info) -> Info:
        del info
        means = {"rounds": own.rounds, "messages": own.messages, "timeouts": own.timeouts, "success": own.is_closest}
        if num_records:
            means |= {"found": own.is_found, "audited": own.is_audited, "kept": own.is_kept}
        out = {name: jnp.mean(value.astype(jnp.float32)) for name, value in means.items()}
        if num_records:
            out["records_per_node"] = jnp.sum(own.holders >= 0) / num
        return out

    return in_rounds(where, network, scenario, start, one_round, measure, "Maymounkov, Mazieres, IPTPS 2002")


def _there(is_there: Array, nodes: Array) -> Array:
    return (nodes >= 0) & is_there[jnp.maximum(nodes, 0)]
