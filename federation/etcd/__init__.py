"""The store on etcd: an asyncio client on our own stubs, the adapter of the port, and etcd as a child process."""
