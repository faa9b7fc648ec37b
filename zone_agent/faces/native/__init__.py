"""The native gRPC API: thin servicers over the services, behind one gate."""
