"""The first configuration of a user who has photos and nothing else, and what `init` says of it."""
