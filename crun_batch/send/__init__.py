"""Tickets to outcomes: protocols, wire, admission, pool. Owns network and clock; knows no file and no price."""
