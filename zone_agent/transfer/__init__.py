"""How bytes move: blobs are served by signed URLs, and pulled from URLs by ranges, verified."""
