"""Static reports: `dlsim report RUNS --out SITE` makes a self-contained HTML site over any set of saved runs."""

from dlsim.report.site import write_report

__all__ = ["write_report"]
