"""The HTTP side: connections, middleware, routes, request bodies and answers."""
