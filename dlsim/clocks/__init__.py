"""When things happen: clocks, tapes of events, and waves of events that share no node.

tape = make_tape(network, poisson(1.0), poisson(2.0), key, horizon=100.0)
blocks = pack(make_waves(tape), tape)
params = play(params, blocks, {GRADIENT: step, COMMUNICATION: average})
"""

from dlsim.clocks.clocks import (
    TICKS_PER_SECOND,
    Clock,
    ClockEvents,
    Cursor,
    advance,
    cursor,
    deterministic,
    events,
    log_normal,
    poisson,
    to_seconds,
    to_ticks,
    trace,
)
from dlsim.clocks.ends import clock_edges, neighbor_rates
from dlsim.clocks.play import EventFn, Events, event_keys, play, play_between
from dlsim.clocks.summary import WaveSummary, plot_waves, wave_summary
from dlsim.clocks.tapes import COMMUNICATION, GRADIENT, Tape, check_tape, make_tape, stream_tape, tape
from dlsim.clocks.waves import Blocks, Waves, choose_width, in_tape_order, make_waves, one_by_one, pack
from dlsim.clocks.windows import Timing, timing

__all__ = [
    "COMMUNICATION",
    "GRADIENT",
    "TICKS_PER_SECOND",
    "Blocks",
    "Clock",
    "ClockEvents",
    "Cursor",
    "EventFn",
    "Events",
    "Tape",
    "Timing",
    "WaveSummary",
    "Waves",
    "advance",
    "check_tape",
    "choose_width",
    "clock_edges",
    "cursor",
    "deterministic",
    "event_keys",
    "events",
    "in_tape_order",
    "log_normal",
    "make_tape",
    "make_waves",
    "neighbor_rates",
    "one_by_one",
    "pack",
    "play",
    "play_between",
    "plot_waves",
    "poisson",
    "stream_tape",
    "tape",
    "timing",
    "to_seconds",
    "to_ticks",
    "trace",
    "wave_summary",
]
