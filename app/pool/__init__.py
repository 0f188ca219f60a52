"""The queue of accepted requests, and the worker processes that paint them."""
