"""The KServe v2 protocol on the wire."""
