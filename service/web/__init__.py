"""HTTP: a file a resource. Knows Flask; what is answered comes from `catalog` and `classifier`."""
