"""When clients of a server come and go: schedules of jobs."""
