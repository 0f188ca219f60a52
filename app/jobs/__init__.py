"""Jobs go on when their connection has ended. The store keeps them and their pictures."""
