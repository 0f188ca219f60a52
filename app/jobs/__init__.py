"""Jobs: work that outlives a connection, and the store that it and its pictures live in."""
