"""The study: from scores and a clinical table to the tables, tests and figures of a paper."""
