"""Networks laid over networks: gossip, consensus by sampling, hash tables and ledgers of blocks or transactions."""
