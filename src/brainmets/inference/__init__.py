"""From a prepared volume to probabilities."""
