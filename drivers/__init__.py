"""drivers: marketplaces and datastores, by capability."""
