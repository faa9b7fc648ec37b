"""The `fedmarket` command: a client of the native gRPC API, and what makes and starts an agent."""
