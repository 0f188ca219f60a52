"""The HTTP side: requests in, pictures out. No tensor arithmetic and no torch: models live in worker processes."""
