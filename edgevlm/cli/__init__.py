"""The command line: one file for each verb; the only place that prints or picks an exit code."""
