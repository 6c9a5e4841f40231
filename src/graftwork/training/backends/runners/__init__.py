"""Scripts that run inside other tools' environments: they import the standard library and the tool alone."""
