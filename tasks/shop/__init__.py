"""The default domain: the orders, stock and rules of the online plant nursery Hollow Lane."""
