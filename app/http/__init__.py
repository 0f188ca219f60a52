"""The HTTP side: routes, what they read and answer, and what stands around every request."""
