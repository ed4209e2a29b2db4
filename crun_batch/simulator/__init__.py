"""The bundled gateway: a real HTTP server on loopback that answers, counts, charges and fails as it is told."""
