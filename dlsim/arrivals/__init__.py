"""When clients of a server come and go: paces, and schedules of their jobs.

schedule = buffered(pace(100, seconds_per_step=0.01), num_steps=10, buffer_size=10)
algorithm = dlsim.algorithms.federated_arrivals(problem, optax.sgd(0.1), schedule)
"""

from dlsim.arrivals.anarchic import anarchic
from dlsim.arrivals.coefficients import constant, hinge, polynomial
from dlsim.arrivals.compass import compass
from dlsim.arrivals.jobs import Jobs, Schedule
from dlsim.arrivals.pace import Pace, linear_speeds, pace, pace_from_links
from dlsim.arrivals.schedules import buffered, fixed_window, next_arrival, synchronous
from dlsim.arrivals.summary import first_jobs, gantt, jobs_per_client, participation, staleness_histogram

__all__ = [
    "Jobs",
    "Pace",
    "Schedule",
    "anarchic",
    "buffered",
    "compass",
    "constant",
    "first_jobs",
    "fixed_window",
    "gantt",
    "hinge",
    "jobs_per_client",
    "linear_speeds",
    "next_arrival",
    "pace",
    "pace_from_links",
    "participation",
    "polynomial",
    "staleness_histogram",
    "synchronous",
]
