"""From a cohort with masks to a model bundle."""
