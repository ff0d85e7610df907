"""A permissioned ledger: deposits, slashing, pay and reputation, in whole units that balance."""
