"""The request path: keys, resolution, limits, streaming, metering."""
