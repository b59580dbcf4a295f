"""What callers are told of their runs, and the outbox of what they have not taken yet."""
