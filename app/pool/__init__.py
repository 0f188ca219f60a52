"""Where accepted requests wait for, and are given to, the worker processes."""
