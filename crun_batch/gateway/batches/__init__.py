"""How gateways take batches. Knows no run directory and no price."""
