"""Market drivers: where the blobs of a market's apps are kept."""
