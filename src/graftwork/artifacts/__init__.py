"""Content-addressed, create-only blobs."""
