"""The one way to the gateway: HTTP/1.1 requests with a deadline, a byte limit, and no hidden retry."""
