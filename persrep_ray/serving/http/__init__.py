"""The HTTP interface of an endpoint, as an ASGI application."""
