"""Use cases and reconcilers: the only place that makes several of the other rooms work together."""
