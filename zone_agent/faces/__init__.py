"""What the agent speaks: each face turns a protocol into calls of the services."""
